"""What Sentry hears of a long outage, and the live numbers of the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery
from stack import Kent, Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

if TYPE_CHECKING:
    from conftest import System

TELL = """
import sys
from ninja_tasks.dead_letters.report import initialise_sentry, report_breaker
from ninja_tasks.delivery.gate import BreakerNews
initialise_sentry(sys.argv[1])
report_breaker(None)
report_breaker(BreakerNews(recovered=False, seconds=75.0))
report_breaker(BreakerNews(recovered=True, seconds=120.0))
"""


def test_a_long_outage_and_its_end_are_two_events() -> None:
    kent = Kent()
    try:
        subprocess.run([sys.executable, "-c", TELL, kent.dsn], env=clean_environment(), check=True)
        wait_until(lambda: len(kent.all_events()) >= 2, "Sentry to hear of both")
        events = {event["message"]: event for event in kent.all_events()}
    finally:
        kent.stop()
    assert set(events) == {"Sales Ninja does not answer", "Sales Ninja answers again"}
    began = events["Sales Ninja does not answer"]
    assert (began["level"], began["contexts"]["outage"]["seconds"]) == ("error", 75.0)


def test_an_outage_is_no_event_where_sentry_is_not_set_up() -> None:
    code = TELL.replace("initialise_sentry(sys.argv[1])", "")
    subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=True)


def test_a_process_that_ends_after_its_goal_has_told_of_it(tmp_path: Path) -> None:
    kent = Kent()
    try:
        with embedded_server() as broker, FakeSalesNinja() as api:
            api.default = Answer(400)
            app = install(Celery("shop", broker=broker.url, set_as_current=False))
            environment = clean_environment(
                CELERY_BROKER_URL=broker.url, NINJA_API_URL=api.url, SENTRY_DSN=kent.dsn
            )
            arguments = ["--max-tasks-per-child=1"]
            with Worker(tmp_path, environment, pool="prefork", arguments=arguments) as worker:
                enqueue_goal(goal_id=str(uuid.uuid4()), customer_id=str(uuid.uuid4()), app=app)
                wait_until(lambda: "became a dead letter" in worker.log, "the letter")
                wait_until(kent.all_events, "Sentry to hear of it")
    finally:
        kent.stop()


def test_stats_can_be_watched(system: System) -> None:
    ninja = [sys.executable, "-m", "celery", "-A", "ninja_tasks", "ninja"]
    with subprocess.Popen(
        [*ninja, "stats", "--watch", "--json"],
        env=system.environment,
        cwd=system.directory,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    assert {"queued", "parked", "dead", "breaker", "latency_milliseconds"} <= lines[0].keys()
    table = system.command("stats").stdout
    assert "oldest pending seconds" in table
    assert "latency p95" in table

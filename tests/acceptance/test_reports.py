"""What Sentry hears of a long outage, and the live numbers of the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from stack import Kent, clean_environment, wait_until

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

"""``install(app)`` changes real workers alone, and fits the brokers that applications have."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from stack import Worker, clean_environment, free_port, wait_until

from ninja_tasks.testing import FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
SHOP = """
from celery import Celery
from ninja_tasks import install

app = install(Celery("shop"))
app.config_from_object("shop_settings")


@app.task
def add(one, other):
    return one + other
"""
#: With such a setting no worker of ours would start.
BROKEN = {"NINJA_MAX_ATTEMPTS": "many", "SENTRY_DSN": "http://public@127.0.0.1:1/1"}


def shop(directory: Path, settings: str) -> None:
    (directory / "shop.py").write_text(SHOP)
    (directory / "shop_settings.py").write_text(settings)


def run(directory: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_celery_report_does_not_read_our_settings(tmp_path: Path) -> None:
    shop(tmp_path, 'broker_url = "memory://"')
    done = run(tmp_path, "-m", "celery", "-A", "shop", "report", **BROKEN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_beat_starts_and_is_not_changed(tmp_path: Path) -> None:
    shop(
        tmp_path,
        """
import sys
from celery.signals import beat_init

broker_url = "memory://"


@beat_init.connect
def look(**signal):
    print(f"loaded:{sorted({'sentry_sdk', 'ninja_tasks.tasks'} & set(sys.modules))}")
""",
    )
    log = tmp_path / "beat.log"
    with log.open("wb") as output:
        beat = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop", "beat", "--pidfile="],
            cwd=tmp_path,
            env=clean_environment(**BROKEN),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "]\n" in log.read_text().partition("loaded:")[2], "beat to start")
        assert "loaded:[]" in log.read_text()
        assert beat.poll() is None
    finally:
        beat.terminate()
        beat.wait()


def test_a_worker_in_a_thread_of_a_test_runs_the_tasks_of_the_application_alone(
    tmp_path: Path,
) -> None:
    shop(tmp_path, 'broker_url, result_backend = "memory://", "cache+memory://"')
    code = """
import sys
from celery.contrib.testing.worker import start_worker
from shop import add, app

with start_worker(app, perform_ping_check=False):
    print(add.delay(2, 3).get(timeout=20), "ninja_tasks.tasks" in sys.modules)
"""
    done = run(tmp_path, "-c", code, **BROKEN)
    assert done.stdout.splitlines()[-1:] == ["5 False"], done.stdout + done.stderr


def test_a_worker_of_the_application_says_in_a_line_why_it_does_not_start(tmp_path: Path) -> None:
    shop(tmp_path, 'broker_url = "redis://127.0.0.1:1/0"')
    done = run(tmp_path, "-m", "celery", "-A", "shop", "worker", "--pool=solo", **BROKEN)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: NINJA_MAX_ATTEMPTS must be a whole")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_goals_are_json_whatever_the_tasks_of_the_application_are(
    tmp_path: Path, pool: str
) -> None:
    settings = 'broker_url = "{url}"; accept_content = ["pickle"]; task_serializer = "pickle"'
    check_travel(tmp_path, settings, pool)


@pytest.mark.parametrize(
    "settings",
    [
        'broker_url = ["{url}", "redis://127.0.0.1:{closed}/0"]',
        'broker_url = "{url};redis://127.0.0.1:{closed}/0"',
        'broker_read_url = broker_write_url = "{url}"',
        'broker_url = "{url}"; task_create_missing_queues = False',
        'broker_url = "{url}"; task_queues = {{"celery": {{}}}}',
    ],
    ids=["list", "several", "read and write", "no missing queues", "own queues"],
)
def test_goals_travel_by_whatever_names_the_application_has_for_its_broker_and_queues(
    tmp_path: Path, settings: str
) -> None:
    check_travel(tmp_path, settings, "threads")


def check_travel(directory: Path, settings: str, pool: str) -> None:
    with embedded_server() as broker, FakeSalesNinja() as api:
        shop(directory, settings.format(url=broker.url, closed=free_port()))
        # Of a worker that accepts pickle Celery wants to know that root is meant.
        environment = clean_environment(NINJA_API_URL=api.url, C_FORCE_ROOT="1")
        code = f"""
import shop
from ninja_tasks import enqueue_goal, enqueue_goals
goal = {{"goal_id": "{GOAL_ID}", "customer_id": "{uuid.uuid4()}"}}
enqueue_goal(**goal, app=shop.app)
enqueue_goals([goal, goal], app=shop.app)
"""
        done = run(directory, "-c", code, NINJA_API_URL=api.url)
        assert done.returncode == 0, done.stderr
        with Worker(directory, environment, pool=pool, app="shop"):
            wait_until(lambda: len(api.delivered) == 3, "the deliveries")

"""The Redis that holds state is away when a fate is known: the worker waits and holds the goal."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"


@pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (400, "dead")])
def test_the_fate_of_a_goal_is_stored_before_its_message_is_acknowledged(
    status: int, state: str, tmp_path: Path
) -> None:
    with embedded_server() as broker, embedded_server() as store, FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url, NINJA_REDIS_URL=store.url, NINJA_API_URL=api.url
        )
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        app.conf.ninja_redis_url = store.url
        api.default = Answer(status, delay_seconds=1)
        with Worker(tmp_path, environment, pool="threads") as worker:
            delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=app)
            wait_until(lambda: api.requests, "the request")
            store.kill()
            wait_until(lambda: f"holding goal {delivery_id}" in worker.log, "the worker to wait")
            with app.connection_for_read() as connection:
                assert connection.default_channel.client.hlen("ninja_tasks.held") == 1
            store.start()
            wait_until(lambda: goal_status(delivery_id, app=app).state == state, f"it is {state}")
        assert len(api.requests) == 1


OWN_TASK = """
from pathlib import Path

from celery import Celery

from ninja_tasks import install

app = install(Celery("shop"))

@app.task
def note(name):
    Path(name).touch()
"""


def test_the_applications_own_tasks_go_on_while_the_redis_for_state_stands_still(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(OWN_TASK)
    alive = tmp_path / "alive"
    with embedded_server() as broker, embedded_server() as store:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url,
            NINJA_REDIS_URL=store.url,
            NINJA_LIVENESS_FILE=str(alive),
        )
        shop = Celery("shop", broker=broker.url, set_as_current=False)
        with Worker(tmp_path, environment, pool="threads", app="shop") as worker:
            wait_until(alive.exists, "the liveness file")
            os.kill(store.pid, signal.SIGSTOP)
            stopped = time.time()
            slowest = 0.0
            for number in range(16):
                done = tmp_path / f"note{number}"
                before = time.monotonic()
                shop.send_task("shop.note", args=(str(done),))
                wait_until(done.exists, f"a task of the application; log:\n{worker.log}")
                slowest = max(slowest, time.monotonic() - before)
                # Spread over more than a socket's timeout.
                threading.Event().wait(0.4)
            assert alive.stat().st_mtime < stopped + 1.0
            os.kill(store.pid, signal.SIGCONT)
            wait_until(lambda: alive.stat().st_mtime > stopped + 1.0, "the worker to be well")
        assert slowest < 2.0

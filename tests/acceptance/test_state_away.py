"""The Redis that holds state is away when a fate is known: the worker waits and holds the goal."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.testing import FakeSalesNinja, embedded_server

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
        api.default = status
        with Worker(tmp_path, environment, pool="threads") as worker:
            store.kill()
            delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=app)
            wait_until(lambda: f"holding goal {delivery_id}" in worker.log, "the worker to wait")
            with app.connection_for_read() as connection:
                assert connection.default_channel.client.hlen("ninja_tasks.unacked") == 1
            store.start()
            wait_until(lambda: goal_status(delivery_id, app=app).state == state, f"it is {state}")
        assert len(api.requests) == 1

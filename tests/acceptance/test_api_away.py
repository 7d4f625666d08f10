"""The API refuses connections for a while; how soon the next attempts come is left to chance."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.testing import FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_is_retried_after_a_refused_connection(pool: str, tmp_path: Path) -> None:
    with embedded_server() as broker, FakeSalesNinja() as api:
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        environment = clean_environment(CELERY_BROKER_URL=broker.url, NINJA_API_URL=api.url)
        api.stop()
        with Worker(tmp_path, environment, pool=pool) as worker:
            before = datetime.now(UTC)
            delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=app)
            after = datetime.now(UTC)
            wait_until(lambda: "NotSent('ConnectionRefusedError'" in worker.log, "an attempt")
            api.start()
            wait_until(
                lambda: goal_status(delivery_id, app=app).state == "delivered", "the delivery"
            )
        status = goal_status(delivery_id, app=app)
        (received,) = api.requests
        created_on = datetime.fromisoformat(received.body["CreatedOnUtc"]).replace(tzinfo=UTC)
        assert before <= created_on <= after
        assert status.attempts is not None
        assert status.attempts >= 2
        assert status.possible_duplicate is False

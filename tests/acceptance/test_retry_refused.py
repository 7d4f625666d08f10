"""The broker takes no message just when a goal has to be tried again."""

from __future__ import annotations

import uuid
from pathlib import Path

import redis
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"


def test_a_goal_whose_retry_cannot_be_published_is_still_there(tmp_path: Path) -> None:
    with embedded_server() as broker, embedded_server() as store, FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url, NINJA_REDIS_URL=store.url, NINJA_API_URL=api.url
        )
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        app.conf.ninja_redis_url = store.url
        api.script(Answer(503, delay_seconds=1))
        with (
            Worker(tmp_path, environment, pool="threads") as worker,
            redis.Redis.from_url(broker.url) as connection,
        ):
            delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=app)
            api.wait_for(1, delivered=False)
            connection.config_set("maxmemory", 1)
            wait_until(lambda: f"holding goal {delivery_id}" in worker.log, "the retry to fail")
            connection.config_set("maxmemory", 0)
            wait_until(
                lambda: goal_status(delivery_id, app=app).state == "delivered", "the delivery"
            )

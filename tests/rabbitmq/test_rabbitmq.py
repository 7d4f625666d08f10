"""The main job with RabbitMQ as the broker and Redis for state."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import (
    ConfigurationError,
    GoalStatus,
    enqueue_goal,
    enqueue_goals,
    goal_status,
    install,
)
from ninja_tasks.config import settings_of
from ninja_tasks.dead_letters.replay import replay
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.state import Keys, connect
from ninja_tasks.status import statistics
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, ReceivedGoal

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"


def goal() -> dict[str, object]:
    return {"goal_id": GOAL_ID, "customer_id": uuid.uuid4()}


@pytest.fixture
def app(rabbitmq: str, ninja_redis: EmbeddedServer) -> Celery:
    shop = install(Celery("shop", broker=rabbitmq, set_as_current=False))
    shop.conf.ninja_redis_url = ninja_redis.url
    return shop


@pytest.fixture(params=["threads", "prefork"])
def worker(
    request: pytest.FixtureRequest,
    rabbitmq: str,
    ninja_redis: EmbeddedServer,
    fake_sales_ninja: FakeSalesNinja,
    tmp_path: Path,
) -> Iterator[Worker]:
    environment = clean_environment(
        CELERY_BROKER_URL=rabbitmq,
        NINJA_REDIS_URL=ninja_redis.url,
        NINJA_API_URL=fake_sales_ninja.url,
    )
    with Worker(tmp_path, environment, pool=request.param) as running:
        yield running


def is_about(customer_id: object, received: ReceivedGoal) -> bool:
    return received.body is not None and received.body["CustomerId"] == str(customer_id)


def status_when(app: Celery, delivery_id: str, state: str) -> GoalStatus:
    def found() -> GoalStatus | None:
        status = goal_status(delivery_id, app=app)
        return status if status.state == state else None

    return wait_until(found, f"{delivery_id} to be {state}")


def test_goals_are_delivered_retried_dead_lettered_and_replayed(
    app: Celery, worker: Worker, fake_sales_ninja: FakeSalesNinja
) -> None:
    busy, missing = goal(), goal()
    for one, status in ((busy, 503), (missing, 400)):
        fake_sales_ninja.script_for(partial(is_about, one["customer_id"]), status)
    retried = enqueue_goal(**busy, app=app)
    rejected = enqueue_goal(**missing, app=app)
    assert status_when(app, rejected, "dead").reason == "rejected"
    assert status_when(app, retried, "delivered").attempts == 2
    settings = settings_of(app)
    store = DeadLetterStore(connect(settings), Keys(settings.key_prefix))
    assert replay(app, store, store.newest()).queued == 1
    assert status_when(app, rejected, "delivered").attempts == 2
    ids = enqueue_goals((goal() for _ in range(500)), app=app).delivery_ids
    for delivery_id in ids:
        status_when(app, delivery_id, "delivered")
    received = [one.delivery_id for one in fake_sales_ninja.delivered]
    assert sorted(received) == sorted([retried, rejected, *ids])


def test_goals_wait_for_their_eta_and_for_the_end_of_a_pause(
    app: Celery, worker: Worker, fake_sales_ninja: FakeSalesNinja
) -> None:
    settings = settings_of(app)
    gate = Gate(settings, connect(settings))
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    later = app.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", countdown=3)
    status_when(app, later.id, "parked")
    gate.pause()
    wait_until(lambda: "not taking goals" in worker.log, "the worker to stop")
    paused = enqueue_goal(**goal(), app=app)
    wait_until(lambda: statistics(app).queued == 2, "both goals to wait in the queue")
    assert fake_sales_ninja.requests == []
    gate.resume()
    for delivery_id in (later.id, paused):
        status_when(app, delivery_id, "delivered")


def test_the_queue_of_a_bare_application_is_the_same_queue(app: Celery, rabbitmq: str) -> None:
    stock = Celery("stock", broker=rabbitmq, set_as_current=False)
    before = statistics(app).queued
    stock.send_task("ninja_tasks.reach_goal", args=[{}], queue="ninja_tasks")
    enqueue_goal(**goal(), app=app)
    wait_until(lambda: statistics(app).queued == before + 2, "both messages")
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("ninja_tasks")


def test_without_a_redis_for_state_the_remedy_is_told(rabbitmq: str) -> None:
    with pytest.raises(ConfigurationError, match="NINJA_REDIS_URL=redis://"):
        statistics(Celery("shop", broker=rabbitmq, set_as_current=False))


def test_a_bare_goal_is_dated_by_the_time_of_its_message(
    app: Celery, fake_sales_ninja: FakeSalesNinja, worker: Worker
) -> None:
    sent_at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    before = statistics(app).undated
    for options in ({"timestamp": int(sent_at.timestamp())}, {}):
        app.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", **options)

    def received() -> list[ReceivedGoal]:
        return [one for one in fake_sales_ninja.requests if is_about(body["CustomerId"], one)]

    wait_until(lambda: len(received()) == 2, "both goals to arrive")
    times = sorted((one.body or {})["CreatedOnUtc"] for one in received())
    assert times[0] == f"{sent_at:%Y-%m-%d %H:%M:%S}.000000"
    assert times[1] > f"{sent_at + timedelta(hours=4):%Y-%m-%d %H:%M:%S}"
    assert statistics(app).undated == before + 1

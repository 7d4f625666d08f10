"""What surrounds the task and could take its promise away: settings, annotations, people."""

from __future__ import annotations

import base64
import json
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.utils.json import loads
from stack import Worker, clean_environment, wait_until

from ninja_tasks import GoalStatus, enqueue_goal, goal_status, install
from ninja_tasks.config import settings_of
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.state import Keys, connect
from ninja_tasks.testing import Answer, EmbeddedServer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
IP = "203.0.113.77"
SECRET = "a-value-that-is-nobodys-business"
SLOW_SECONDS = 4

SHOP = """
import os
from celery import Celery
from ninja_tasks import install

app = install(Celery("shop", broker=os.environ["CELERY_BROKER_URL"]))
"""

#: What an application may have had for years. It means its own tasks.
OLD_HABITS = """
app.conf.update(
    task_time_limit=2,
    task_soft_time_limit=1,
    task_acks_late=False,
    task_acks_on_failure_or_timeout=True,
    task_reject_on_worker_lost=False,
    task_default_rate_limit="1/h",
    task_annotations={
        "*": {
            "max_retries": 0,
            "acks_late": False,
            "acks_on_timeout": True,
            "reject_on_worker_lost": False,
            "retry_on_worker_lost": True,
            "autoretry_for": (),
            "rate_limit": "1/h",
            "time_limit": 2,
            "soft_time_limit": 1,
            "Request": "celery.worker.request:Request",
        },
    },
    worker_deduplicate_successful_tasks=True,
    worker_prefetch_multiplier=1,
)
"""


class Shop:
    """The application, its worker, and what it depends on."""

    def __init__(self, directory: Path, broker: EmbeddedServer, api: FakeSalesNinja) -> None:
        self.directory = directory
        self.broker = broker
        self.api = api
        self.environment = clean_environment(
            CELERY_BROKER_URL=broker.url,
            NINJA_API_URL=api.url,
            NINJA_RATE_LIMIT="none",
            NINJA_BREAKER_THRESHOLD="1000",
        )
        self.app = install(Celery("shop", broker=broker.url, set_as_current=False))
        self.worker: Worker | None = None

    def start(self, pool: str, *, settings: str = "", **options: Any) -> Worker:
        (self.directory / "shop.py").write_text(SHOP + settings)
        self.worker = Worker(self.directory, self.environment, pool=pool, app="shop", **options)
        return self.worker

    def enqueue(self, **arguments: Any) -> str:
        goal = {"goal_id": GOAL_ID, "customer_id": uuid.uuid4()}
        return enqueue_goal(**goal | arguments, app=self.app)

    def send(self, body: Any, **options: Any) -> str:
        """Send as an application without this package does."""
        bare = Celery("bare", broker=self.broker.url, set_as_current=False)
        with bare:
            sent = bare.send_task(
                "ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", **options
            )
            return str(sent.id)

    def status_when(self, delivery_id: str, state: str, seconds: float = 30) -> GoalStatus:
        def found() -> GoalStatus | None:
            status = goal_status(delivery_id, app=self.app)
            return status if status.state == state else None

        log = self.worker.log[-4000:] if self.worker else ""
        return wait_until(found, f"{delivery_id} to be {state}; log:\n{log}", seconds)

    def letter(self, delivery_id: str) -> DeadLetter:
        self.status_when(delivery_id, "dead")
        with connect(settings_of(self.app)) as client:
            stored = DeadLetterStore(client, Keys("ninja:")).get(delivery_id)
        assert stored is not None
        return stored.letter


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with embedded_server() as broker, FakeSalesNinja() as api:
        running = Shop(tmp_path, broker, api)
        try:
            yield running
        finally:
            if running.worker:
                running.worker.end()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_request_outlasts_the_time_limit_of_the_applications_own_tasks(
    shop: Shop, pool: str
) -> None:
    shop.api.default = Answer(delay_seconds=SLOW_SECONDS)
    shop.start(pool, settings=OLD_HABITS)
    ids = [shop.enqueue() for _ in range(3)]
    statuses = [shop.status_when(one, "delivered") for one in ids]
    assert [(one.attempts, one.possible_duplicate) for one in statuses] == [(1, False)] * 3
    assert len(shop.api.requests) == 3


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_is_retried_whatever_the_application_says_of_retries(shop: Shop, pool: str) -> None:
    shop.api.script(Answer(503), Answer(503))
    shop.start(pool, settings=OLD_HABITS)
    assert shop.status_when(shop.enqueue(), "delivered").attempts == 3


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_survives_its_killed_worker_where_the_application_acknowledges_early(
    shop: Shop, pool: str
) -> None:
    shop.api.script(Answer(delay_seconds=30))
    worker = shop.start(pool, concurrency=1, settings=OLD_HABITS)
    delivery_id = shop.enqueue()
    shop.api.wait_for(1, delivered=False)
    worker.kill()
    shop.start(pool, concurrency=1, settings=OLD_HABITS)
    status = shop.status_when(delivery_id, "delivered")
    assert (status.attempts, status.possible_duplicate) == (2, True)


def test_a_goal_whose_process_a_person_terminates_is_delivered_all_the_same(shop: Shop) -> None:
    shop.api.script(Answer(delay_seconds=30))
    shop.start("prefork", concurrency=1)
    delivery_id = shop.enqueue()
    shop.api.wait_for(1, delivered=False)
    shop.app.control.revoke(delivery_id, terminate=True, signal="SIGKILL")
    status = shop.status_when(delivery_id, "delivered")
    assert (status.attempts, status.possible_duplicate) == (2, True)


def test_a_goal_that_was_revoked_before_its_turn_is_delivered(shop: Shop) -> None:
    worker = shop.start("threads")
    delivery_id = str(uuid.uuid4())
    shop.app.control.revoke(delivery_id)
    wait_until(lambda: "flagged as revoked" in worker.log, "the revocation")
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    shop.send(body, task_id=delivery_id)
    shop.status_when(delivery_id, "delivered")
    assert f"goal {delivery_id} cannot be revoked" in worker.log


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_retry_that_a_full_redis_refuses_goes_back_when_the_worker_ends(
    shop: Shop, pool: str
) -> None:
    shop.api.script(Answer(503, delay_seconds=0.5))
    worker = shop.start(pool)
    delivery_id = shop.enqueue()
    shop.api.wait_for(1, delivered=False)
    with redis.Redis.from_url(shop.broker.url) as client:
        client.config_set("maxmemory", 1)
        wait_until(lambda: "holding goal" in worker.log, "the goal to be held")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: worker.has_ended(), "the worker to end")
        client.config_set("maxmemory", 0)
    shop.start(pool)
    assert shop.status_when(delivery_id, "delivered").attempts == 2


#: Kombu's JSON gives objects back for these, which the standard library's JSON cannot write.
OBJECTS = {
    "amount": Decimal("12350.50"),
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "order": uuid.UUID("2eccd743-4164-4892-a416-dc5c16f44971"),
    "receipt": b"\xff\xfe",
}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_invalid_body_of_any_objects_becomes_a_letter_that_holds_them_as_they_came(
    shop: Shop, pool: str
) -> None:
    shop.start(pool)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4()), "CustomPageScopeParams": OBJECTS}
    letter = shop.letter(shop.send(body))
    assert letter.reason == "invalid"
    assert loads(json.dumps(letter.payload)) == body


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_invalid_body_that_no_json_can_hold_becomes_a_letter_of_its_bytes(
    shop: Shop, pool: str
) -> None:
    shop.environment["C_FORCE_ROOT"] = "1"
    shop.start(pool, settings="app.conf.accept_content = ['json', 'pickle']")
    letter = shop.letter(shop.send({"GoalId": {1, 2}, "CustomerId": SECRET}, serializer="pickle"))
    assert letter.reason == "malformed"
    assert SECRET.encode() in base64.b64decode(str(letter.raw))
    shop.status_when(shop.enqueue(), "delivered")


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_the_headers_of_a_goal_are_found_where_a_tracer_nested_others(
    shop: Shop, pool: str
) -> None:
    shop.api.default = Answer(500)
    shop.start(pool)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    policy = {"ninja_on_unknown": "dead_letter"}
    nested = {"headers": {"sentry-trace": "771a43a4192642f0b136d5159a501700-1"}}
    beside = shop.send(body, headers={**policy, **nested})
    inside = shop.send(body, headers={"headers": {**nested["headers"], **policy}})
    assert shop.letter(beside).reason == "unknown"
    assert shop.letter(inside).reason == "unknown"


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_neither_inspection_nor_the_log_of_any_level_shows_a_goal(shop: Shop, pool: str) -> None:
    shop.api.default = Answer(delay_seconds=2)
    worker = shop.start(pool, concurrency=1, log_level="DEBUG")
    customers = [str(uuid.uuid4()) for _ in range(3)]
    ids = [
        shop.send(
            {
                "GoalId": GOAL_ID,
                "CustomerId": customer,
                "Ip": IP,
                "CustomPageScopeParams": {"segment": SECRET},
            }
        )
        for customer in customers
    ]
    shop.api.wait_for(1, delivered=False)
    inspect = shop.app.control.inspect(timeout=2)
    seen = json.dumps([inspect.active(), inspect.reserved(), inspect.query_task(*ids)])
    assert any(one in seen for one in ids)
    for one in ids:
        shop.status_when(one, "delivered")
    for private in (IP, SECRET, *customers):
        assert private not in seen
        assert private not in worker.log

"""The broker or the Redis that holds state takes nothing just when a goal has to be tried again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from celery import Celery
from fleet import Fates
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.testing import (
    Answer,
    EmbeddedServer,
    FakeSalesNinja,
    embedded_server,
)

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
#: Only what is asserted below is written into the table.
DELIVERED_ONCE = Fates(goals=1, lost=0, duplicated=0, unmarked=0, unknown=0, delivered_at={})


class Parts(NamedTuple):
    app: Celery
    broker: EmbeddedServer
    store: EmbeddedServer
    api: FakeSalesNinja
    worker: Worker

    def enqueue(self) -> str:
        self.api.script(Answer(503, delay_seconds=1))
        delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=self.app)
        self.api.wait_for(1, delivered=False)
        return delivery_id

    def wait_for_state(self, delivery_id: str, state: str) -> None:
        wait_until(
            lambda: goal_status(delivery_id, app=self.app).state == state,
            f"it to be {state}; log:\n{self.worker.log[-3000:]}",
        )


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with embedded_server() as broker, embedded_server() as store, FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url, NINJA_REDIS_URL=store.url, NINJA_API_URL=api.url
        )
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        app.conf.ninja_redis_url = store.url
        with Worker(tmp_path, environment, pool="threads") as worker:
            yield Parts(app, broker, store, api, worker)


@contextmanager
def refusing_writes(server: EmbeddedServer) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as connection:
        connection.config_set("maxmemory", 1)
        yield
        connection.config_set("maxmemory", 0)


def test_a_goal_that_cannot_be_parked_is_held_by_its_worker(
    parts: Parts, fault: Callable[..., None]
) -> None:
    delivery_id = parts.enqueue()
    with refusing_writes(parts.store):
        wait_until(lambda: f"holding goal {delivery_id}" in parts.worker.log, "it to be held")
    parts.wait_for_state(delivery_id, "delivered")
    assert len(parts.api.requests) == 2
    fault("a retry cannot be parked", DELIVERED_ONCE)


def test_a_parked_goal_that_the_broker_does_not_take_stays_parked(
    parts: Parts, fault: Callable[..., None]
) -> None:
    delivery_id = parts.enqueue()
    with refusing_writes(parts.broker):
        wait_until(lambda: "Mover goes on later" in parts.worker.log, "the mover to fail")
        parts.wait_for_state(delivery_id, "parked")
    parts.wait_for_state(delivery_id, "delivered")
    assert len(parts.api.requests) == 2
    fault("the broker takes no parked goal back", DELIVERED_ONCE)

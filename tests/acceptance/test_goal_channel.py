"""The goal channel beside the application's own queues: what people ask of a worker holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goals, install
from ninja_tasks.testing import Answer, EmbeddedServer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
QUEUE = "ninja_tasks"
POOLS = ["threads", "prefork", "solo"]
SHOP = """
from celery import Celery
from kombu import Connection
from ninja_tasks import install

app = install(Celery("shop", backend="{url}"))


@app.task
def add(one, other):
    return one + other
"""


@dataclass
class Shop:
    """An application with goals: its broker, its API, its workers."""

    app: Celery
    broker: EmbeddedServer
    api: FakeSalesNinja
    directory: Path

    @contextmanager
    def worker(self, pool: str, *arguments: str, **settings: str) -> Iterator[Worker]:
        environment = clean_environment(
            CELERY_BROKER_URL=self.broker.url,
            NINJA_API_URL=self.api.url,
            NINJA_RATE_LIMIT="none",
            **settings,
        )
        with Worker(
            self.directory, environment, pool=pool, app="shop", arguments=arguments
        ) as started:
            yield started

    def enqueue(self, count: int) -> list[str]:
        goals = ({"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(count))
        return list(enqueue_goals(goals, app=self.app).delivery_ids)

    def add(self) -> Any:
        return self.app.send_task("shop.add", (2, 3)).get(timeout=20)

    def ask(self, what: str) -> Any:
        """Return what the one worker answers to a question."""

        def answer() -> Any:
            # Those of this process may have been lost.
            with Connection(self.broker.url) as connection:
                return getattr(self.app.control.inspect(timeout=1, connection=connection), what)()

        (found,) = wait_until(answer, f"the answer to {what}").values()
        return found

    def tell(self, what: str) -> None:
        """Let the worker do something with the goal queue."""
        with Connection(self.broker.url) as connection:
            getattr(self.app.control, what)(QUEUE, reply=True, connection=connection)

    def queued(self) -> int:
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.llen(QUEUE))

    def held(self) -> int:
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.hlen("ninja_tasks.held"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with embedded_server(appendonly=True) as broker, FakeSalesNinja(keep_bodies=False) as api:
        (tmp_path / "shop.py").write_text(SHOP.format(url=broker.url))
        app = install(Celery("shop", broker=broker.url, backend=broker.url, set_as_current=False))
        yield Shop(app, broker, api, tmp_path)


def most_at_once(shop: Shop, seconds: float) -> int:
    """Return how many requests that took so long were under way at the same time."""
    begun = [one.at.timestamp() for one in shop.api.requests]
    return max(sum(at <= other < at + 0.9 * seconds for other in begun) for at in begun)


def names(queues: list[dict[str, Any]]) -> list[str]:
    return sorted(queue["name"] for queue in queues)


@pytest.mark.parametrize("pool", POOLS)
def test_a_queue_of_goals_can_be_cancelled_and_added_while_the_applications_own_goes_on(
    shop: Shop, pool: str
) -> None:
    with shop.worker(pool):
        shop.enqueue(1)
        shop.api.wait_for(1)
        assert names(shop.ask("active_queues")) == ["celery", QUEUE]
        shop.tell("cancel_consumer")
        assert names(shop.ask("active_queues")) == ["celery"]
        shop.enqueue(3)
        assert shop.add() == 5
        assert shop.queued() == 3
        shop.tell("add_consumer")
        shop.api.wait_for(4)
        assert names(shop.ask("active_queues")) == ["celery", QUEUE]


@pytest.mark.parametrize("pool", POOLS)
def test_what_people_decided_outlasts_an_outage_of_the_broker(shop: Shop, pool: str) -> None:
    with shop.worker(pool) as worker:
        shop.enqueue(1)
        shop.api.wait_for(1)
        shop.tell("cancel_consumer")
        shop.broker.kill()
        wait_until(lambda: "Connection to broker lost" in worker.log, "the loss")
        shop.broker.start()
        assert names(shop.ask("active_queues")) == ["celery"]
        shop.enqueue(1)
        assert shop.add() == 5
        assert shop.queued() == 1
        shop.tell("add_consumer")
        shop.api.wait_for(2)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_told_other_queues_takes_no_goals_until_it_is_told_to(
    shop: Shop, pool: str
) -> None:
    with shop.worker(pool, "-Q", "celery"):
        shop.enqueue(1)
        assert shop.add() == 5
        assert shop.queued() == 1
        shop.tell("add_consumer")
        shop.api.wait_for(1)


def test_a_worker_told_to_exclude_goals_takes_none(shop: Shop) -> None:
    with shop.worker("threads", "-X", QUEUE):
        shop.enqueue(1)
        assert shop.add() == 5
        assert names(shop.ask("active_queues")) == ["celery"]
        assert shop.queued() == 1


def test_a_worker_for_goals_alone_uses_all_of_its_slots(shop: Shop) -> None:
    shop.api.default = Answer(delay_seconds=0.5)
    with shop.worker("threads", "-Q", QUEUE):
        shop.enqueue(20)
        shop.api.wait_for(20)
    assert most_at_once(shop, 0.5) == 4


@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.parametrize(("setting", "at_once"), [("", 2), ("1", 1), ("3", 3)])
def test_goals_take_half_of_a_pool_that_serves_other_queues_or_what_is_set(
    shop: Shop, pool: str, setting: str, at_once: int
) -> None:
    shop.api.default = Answer(delay_seconds=0.5)
    with shop.worker(pool, **({"NINJA_CONCURRENCY": setting} if setting else {})):
        shop.enqueue(9)
        shop.api.wait_for(9)
    assert most_at_once(shop, 0.5) == at_once


@pytest.mark.parametrize("pool", POOLS)
def test_a_pause_gives_back_what_has_not_begun_and_the_own_tasks_go_on(
    shop: Shop, pool: str
) -> None:
    shop.api.default = Answer(delay_seconds=0.2)
    with shop.worker(pool) as worker:
        ids = shop.enqueue(60)
        shop.api.wait_for(2)
        with redis.Redis.from_url(shop.broker.url) as client:
            client.hset("ninja:gate", "paused", "1")
            wait_until(lambda: "not taking goals" in worker.log, "the pause")
            wait_until(lambda: shop.held() == 0, "goals to be given back")
            assert names(shop.ask("active_queues")) == ["celery", QUEUE]
            assert shop.add() == 5
            client.hdel("ninja:gate", "paused")
        wait_until(lambda: len(shop.api.delivered) == len(ids), "all goals")
    assert {one.delivery_id for one in shop.api.delivered} == set(ids)


@pytest.mark.parametrize("pool", POOLS)
def test_a_goal_that_outlasts_a_loss_of_the_broker_is_sent_once(shop: Shop, pool: str) -> None:
    shop.api.default = Answer(delay_seconds=3.0)
    with shop.worker(pool) as worker:
        ids = shop.enqueue(12)
        shop.api.wait_for(1, delivered=False)
        shop.broker.kill()
        shop.broker.start()
        shop.api.default = Answer()
        wait_until(lambda: len(shop.api.delivered) >= len(ids), "all goals")
        wait_until(lambda: not shop.held() and not shop.queued(), "the acknowledgements", 30)
        assert worker.is_running
    assert sorted(one.delivery_id for one in shop.api.delivered) == sorted(ids)

"""Every pool of Celery delivers goals, and gives back what it has not delivered when it ends."""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goals, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
GOALS = 200
POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]


class Shop:
    """A broker, an API of 50 ms, and workers of one pool after the other."""

    def __init__(self, directory: Path, url: str, api: FakeSalesNinja) -> None:
        self.api = api
        self._url = url
        self._directory = directory
        self._environment = clean_environment(
            CELERY_BROKER_URL=url, NINJA_API_URL=api.url, NINJA_RATE_LIMIT="none"
        )
        self._app = install(Celery("shop", broker=url, set_as_current=False))
        self._started = 0

    def enqueue(self, count: int) -> set[str]:
        goals = ({"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(count))
        return set(enqueue_goals(goals, app=self._app).delivery_ids)

    def worker(self, pool: str, *arguments: str) -> Worker:
        self._started += 1
        return Worker(
            self._directory,
            self._environment,
            pool=pool,
            name=f"worker{self._started}",
            arguments=arguments,
        )

    def wait_for(self, ids: set[str]) -> None:
        """Wait until goals are delivered, and no copy of one is left."""
        keys = ("ninja_tasks", "ninja_tasks.held", "ninja_tasks.held:leases")
        with redis.Redis.from_url(self._url) as client:
            wait_until(
                lambda: self.delivered().keys() >= ids and not client.exists(*keys), "all goals", 60
            )

    def delivered(self) -> Counter[str]:
        return Counter(one.delivery_id for one in self.api.delivered)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with embedded_server() as broker, FakeSalesNinja(keep_bodies=False) as api:
        api.default = Answer(delay_seconds=0.05)
        yield Shop(tmp_path, broker.url, api)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_that_ends_amid_goals_loses_none(shop: Shop, pool: str, how: signal.Signals) -> None:
    ids = shop.enqueue(GOALS)
    worker = shop.worker(pool)
    try:
        shop.api.wait_for(20)
        worker.signal(how)
        # A busy pool of processes can take half a minute.
        wait_until(worker.has_ended, "the worker to end", 70)
    finally:
        worker.end()
    with shop.worker(pool):
        shop.wait_for(ids)
    # What was under way when it ended may have been sent twice, and no more.
    assert sum(shop.delivered().values()) <= GOALS + 4


def test_processes_that_are_replaced_after_some_tasks_lose_none(shop: Shop) -> None:
    ids = shop.enqueue(GOALS)
    with shop.worker("prefork", "--max-tasks-per-child=20"):
        shop.wait_for(ids)
    assert sum(shop.delivered().values()) == GOALS


def test_a_pool_that_grows_by_itself_delivers(shop: Shop) -> None:
    ids = shop.enqueue(GOALS)
    with shop.worker("prefork", "--autoscale=6,1"):
        shop.wait_for(ids)
    assert sum(shop.delivered().values()) == GOALS


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_without_prefetch_delivers(shop: Shop, pool: str) -> None:
    ids = shop.enqueue(GOALS)
    with shop.worker(pool, "--disable-prefetch"):
        shop.wait_for(ids)
    assert sum(shop.delivered().values()) == GOALS

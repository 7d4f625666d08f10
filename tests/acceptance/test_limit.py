"""The limit with real workers: goals wait in front of the pool, and nobody else waits for them."""

from __future__ import annotations

import itertools
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import Celery
from fleet import Fleet, fullest_second, size
from kombu.utils.json import loads
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goals, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
SHOP = """
import os
from celery import Celery
from redis import Redis
from ninja_tasks import install

app = install(Celery("shop", broker=os.environ["CELERY_BROKER_URL"]))


@app.task(name="shop.answer")
def answer(name):
    Redis.from_url(os.environ["NINJA_REDIS_URL"]).rpush("answers", name)
"""
OWN_TASKS = 12


@dataclass
class Shop:
    """An application with a task of its own, its worker, and the Redis where that task answers."""

    app: Celery
    store: redis.Redis

    def enqueue(self, count: int) -> None:
        goals = ({"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(count))
        enqueue_goals(goals, app=self.app)

    def seconds_to_answer(self) -> float:
        """Return how long the application's own task takes, from its sending to its answer."""
        name, before = str(uuid.uuid4()), time.monotonic()
        self.app.send_task("shop.answer", args=[name])
        answered = self.store.blpop(["answers"], 30)
        assert answered == ("answers", name)
        return time.monotonic() - before


@contextmanager
def running_shop(
    directory: Path, api: FakeSalesNinja, broker: str, store: str, pool: str, rate_limit: str
) -> Iterator[Shop]:
    (directory / "shop.py").write_text(SHOP)
    environment = clean_environment(
        CELERY_BROKER_URL=broker,
        NINJA_REDIS_URL=store,
        NINJA_API_URL=api.url,
        NINJA_RATE_LIMIT=rate_limit,
    )
    app = install(Celery("shop", broker=broker, set_as_current=False))
    app.conf.ninja_redis_url = store
    with redis.Redis.from_url(store, decode_responses=True) as client:
        shop = Shop(app, client)
        shop.enqueue(size(200, 2000))
        with Worker(directory, environment, pool=pool, app="shop", concurrency=4):
            yield shop


def check_own_tasks(shop: Shop, api: FakeSalesNinja) -> None:
    """The goals wait, and the application's own tasks do not."""
    api.wait_for(1)
    seconds = [shop.seconds_to_answer() for _ in range(OWN_TASKS)]
    assert statistics.median(seconds) <= 0.2, seconds
    assert max(seconds) <= 2, seconds


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_an_applications_own_task_does_not_wait_for_goals_that_wait_for_the_limit(
    tmp_path: Path, pool: str
) -> None:
    with (
        embedded_server() as broker,
        FakeSalesNinja() as api,
        running_shop(tmp_path, api, broker.url, broker.url, pool, "2/s") as shop,
    ):
        check_own_tasks(shop, api)


def test_goals_that_wait_for_a_slow_api_leave_half_of_the_pool_to_other_tasks(
    tmp_path: Path,
) -> None:
    with embedded_server() as broker, FakeSalesNinja() as api:
        api.default = Answer(200, delay_seconds=2)
        with running_shop(tmp_path, api, broker.url, broker.url, "prefork", "none") as shop:
            wait_until(lambda: len(api.requests) >= 2, "two goals at a time")
            seconds = [shop.seconds_to_answer() for _ in range(OWN_TASKS)]
            assert statistics.median(seconds) <= 0.2, seconds
            assert max(seconds) < 2, seconds


@pytest.mark.parametrize("limit", ["none", "1000/s"])
def test_goals_that_no_limit_holds_up_do_not_wait_while_a_worker_looks_for_other_tasks(
    tmp_path: Path, limit: str
) -> None:
    with (
        embedded_server() as broker,
        FakeSalesNinja() as api,
        running_shop(tmp_path, api, broker.url, broker.url, "threads", limit),
    ):
        api.wait_for(size(200, 2000))
        times = sorted(one.monotonic for one in api.delivered)
        pauses = [after - before for before, after in itertools.pairwise(times)]
        waited = sum(pause for pause in pauses if pause > 0.05)
        assert waited < (times[-1] - times[0]) / 3, sorted(pauses)[-20:]


@pytest.mark.parametrize(
    ("pool", "threads", "workers", "rate"),
    [("threads", 16, 2, 5), ("prefork", 4, 1, 20)],
)
def test_goals_that_wait_before_the_workers_start_are_sent_at_the_limit(
    fleet: Fleet, pool: str, threads: int, workers: int, rate: int
) -> None:
    goals = 6 * rate
    fleet.enqueue(goals)
    fleet.start(workers, pool=pool, concurrency=threads, rate_limit=f"{rate}/s")
    fleet.wait_for(lambda now: now.delivered == goals, "every delivery", 60)
    times = sorted(one.monotonic for one in fleet.api.delivered)
    # Looser than the sizes in full: a shared machine may stop a worker for a moment.
    assert times[-1] - times[0] <= 1.25 * goals / rate
    assert fullest_second(times)[0] <= rate + max(1, rate // 10) + 2


def test_a_rolling_change_of_the_limit_keeps_the_newer_one(fleet: Fleet) -> None:
    fleet.enqueue(400)
    fleet.start(1, concurrency=8, rate_limit="10/s")
    fleet.api.wait_for(10)
    fleet.start(1, concurrency=8, rate_limit="20/s")
    begins = time.monotonic()
    fleet.api.wait_for(len(fleet.api.delivered) + 80)
    times = sorted(one.monotonic for one in fleet.api.delivered if one.monotonic > begins)
    assert fullest_second(times)[0] <= 20 + 2 + 2
    assert len(times) / (times[-1] - times[0]) >= 14


def test_goals_that_have_not_begun_are_back_on_the_queue_at_once_when_a_worker_ends(
    fleet: Fleet,
) -> None:
    fleet.enqueue(60)
    for pool in ("threads", "prefork"):
        (worker,) = fleet.start(pool=pool, concurrency=8, rate_limit="1/s")
        wait_until(lambda: len(fleet.held()) >= 4, "goals to be fetched")
        assert worker.stop() == 0
        fleet.workers.clear()
        assert fleet.held() == set()
        ids = {loads(one)["headers"]["id"] for one in queue_of(fleet)}
        delivered = {one.delivery_id for one in fleet.api.delivered}
        assert len(ids | delivered) == 60
        assert not ids & delivered


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_goals_that_wait_in_a_worker_are_sent_once_after_its_connection_was_lost(
    durable_fleet: Fleet, pool: str
) -> None:
    fleet, goals = durable_fleet, 120
    ids = fleet.enqueue(goals)
    fleet.start(1, pool=pool, concurrency=4, rate_limit="20/s")
    fleet.api.wait_for(20)
    fleet.broker.kill()
    fleet.broker.start()
    fates = fleet.wait_for_fates(ids)
    assert (fates.lost, fates.unmarked) == (0, 0)
    # What was being sent when Redis went away may be sent again.
    assert fates.duplicated <= 4
    times = sorted(one.monotonic for one in fleet.api.delivered)
    assert fullest_second(times)[0] <= 20 + 2 + 2


def queue_of(fleet: Fleet) -> list[bytes]:
    with redis.Redis.from_url(fleet.broker.url) as client:
        messages: list[bytes] = client.lrange("ninja_tasks", 0, -1)
        return messages

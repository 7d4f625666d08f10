"""Workers and Redis are killed at random, for as long as one likes, while goals keep coming."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import redis
from fleet import GOAL_ID
from stack import Worker, wait_until

from ninja_tasks import PublishError, enqueue_goal
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

MINUTES = float(os.environ.get("NINJA_SOAK_MINUTES") or 0.3)
GOALS_PER_SECOND = 50
LATENCY_SECONDS = 0.05
POOLS = ("threads", "threads", "prefork")


class Shop(threading.Thread):
    """Enqueues goals all the time, and notes those that the broker confirmed."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self._ended = threading.Event()
        self.enqueued: dict[str, float] = {}
        self.refused = 0

    def run(self) -> None:
        while not self._ended.wait(1 / GOALS_PER_SECOND):
            try:
                name = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=self._fleet.app)
            except PublishError:
                self.refused += 1
            else:
                self.enqueued[name] = time.time()

    def close(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(60 * MINUTES + 300)
def test_random_kills_of_workers_and_redis_lose_no_goal(
    durable_fleet: Fleet, measured: Callable[..., None]
) -> None:
    fleet = durable_fleet
    chance = random.Random(20261124)  # noqa: S311 (no secret: the same faults each time)
    fleet.api.default = Answer(delay_seconds=LATENCY_SECONDS)
    workers = [start(fleet, pool) for pool in POOLS]
    shop = Shop(fleet)
    shop.start()
    kills: Counter[str] = Counter()
    over_at = time.monotonic() + 60 * MINUTES
    while time.monotonic() < over_at:
        pause(chance.uniform(1, 6))
        if chance.random() < 0.25:
            kills["redis"] += 1
            fleet.broker.kill()
            pause(chance.uniform(0.2, 4))
            fleet.broker.start()
        else:
            kills["worker"] += 1
            victim = chance.randrange(len(POOLS))
            workers[victim].kill()
            fleet.workers.remove(workers[victim])
            workers[victim] = start(fleet, POOLS[victim])
    shop.close()

    def settled() -> bool:
        pages = fleet.ledger()
        dead = letters(fleet)
        return all(name in dead or pages.get(name, "-")[0] == "d" for name in shop.enqueued)

    drained = True
    try:
        wait_until(settled, "every goal to be delivered or dead", 120)
    except AssertionError:
        drained = False
    pages, dead = fleet.ledger(), letters(fleet)
    lost = [name for name in shop.enqueued if name not in dead and pages.get(name, "-")[0] != "d"]
    posts = Counter(one.delivery_id for one in fleet.api.delivered)
    twice = [name for name, count in posts.items() if count > 1]
    late = [
        int(pages[name][1]) / 1000 - at
        for name, at in shop.enqueued.items()
        if pages.get(name, "-")[0] == "d"
    ]
    measured(
        minutes=MINUTES,
        goals=len(shop.enqueued),
        kills_of_workers=kills["worker"],
        kills_of_redis=kills["redis"],
        lost=len(lost),
        dead=sorted(Counter(dead.values()).items()),
        sent_twice=len(twice),
        latest_delivery_seconds=round(max(late), 1),
        refused_while_redis_was_away=shop.refused,
    )
    assert drained
    assert not lost
    assert all(pages[name][3] == "1" for name in twice)


def start(fleet: Fleet, pool: str) -> Worker:
    concurrency = {"threads": 8, "prefork": 2}[pool]
    (worker,) = fleet.start(pool=pool, concurrency=concurrency, rate_limit="none")
    return worker


def pause(seconds: float) -> None:
    """Let time pass: the faults come at random moments."""
    threading.Event().wait(seconds)


def letters(fleet: Fleet) -> dict[str, str]:
    """Return the reasons of all dead letters by delivery id."""
    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        store = DeadLetterStore(client, Keys("ninja:"))
        return {one.letter.delivery_id: one.letter.reason for one in store.newest()}

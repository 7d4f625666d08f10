"""Workers on RabbitMQ are killed by ``kill -9`` while they deliver, and replaced."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from fleet import Fleet, size

from ninja_tasks import install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

if TYPE_CHECKING:
    from rabbitmq_node import Node

GOALS = size(600, 20_000)
KILLS = size(2, 10)
CONCURRENCY = {"threads": 8, "prefork": 4}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_killed_worker_loses_no_goal_and_the_others_take_what_it_held(
    rabbitmq_node: Node, tmp_path: Path, pool: str, fault: Callable[..., None]
) -> None:
    chance = random.Random(20261126)  # noqa: S311 (no secret: the same moments each time)
    with embedded_server() as state, FakeSalesNinja(keep_bodies=False) as api:
        app = install(Celery("shop", broker=rabbitmq_node.url, set_as_current=False))
        app.conf.ninja_redis_url = state.url
        settings = {
            "CELERY_BROKER_URL": rabbitmq_node.url,
            "NINJA_REDIS_URL": state.url,
            "NINJA_API_URL": api.url,
            "NINJA_RATE_LIMIT": "none",
        }
        fleet = Fleet(app, state, api, None, tmp_path, settings)
        api.default = Answer(delay_seconds=size(40, 5) / 1000)
        ids = fleet.enqueue(GOALS)
        workers = fleet.start(2, pool=pool, concurrency=CONCURRENCY[pool])
        longest = 0.0
        for number in range(KILLS):
            threading.Event().wait(chance.uniform(0.2, 1.0))
            victim = number % 2
            workers[victim].kill()
            killed, delivered = time.monotonic(), fleet.numbers().delivered
            fleet.wait_for(
                lambda now, before=delivered: now.delivered > before or now.delivered >= GOALS,
                "the other worker to go on",
            )
            longest = max(longest, time.monotonic() - killed)
            (workers[victim],) = fleet.start(pool=pool, concurrency=CONCURRENCY[pool])
        fates = fleet.wait_for_fates(ids, size(60, 400))
        fleet.workers[:] = workers
        fleet.stop()
    fault(f"{KILLS} kills of a worker on RabbitMQ ({pool})", fates, longest)
    assert fates.lost == fates.unmarked == 0
    assert fates.duplicated <= KILLS * CONCURRENCY[pool]
    assert longest <= 10

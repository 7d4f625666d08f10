"""Redis takes fewer connections than the worker has threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis
from stack import wait_until

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = 400
THREADS = 32
MOST_CLIENTS = 20


def test_threads_share_the_connections_that_redis_takes_and_give_them_back(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    fleet.api.default = Answer(delay_seconds=0.1)
    with redis.Redis.from_url(fleet.broker.url) as client:
        client.config_set("maxclients", MOST_CLIENTS)
        (worker,) = fleet.start(concurrency=THREADS, rate_limit="none")
        began = time.time()
        ids = fleet.enqueue(GOALS)
        wait_until(
            lambda: len({one.delivery_id for one in fleet.api.delivered}) == GOALS,
            f"all goals; log:\n{worker.log[-3000:]}",
            60,
        )
        client.config_set("maxclients", 1000)
        fates = fleet.wait_for_fates(ids)
        fault("Redis takes 20 connections", fates, max(fates.delivered_at.values()) - began)
        assert fates.lost == fates.duplicated == 0
        busy = client.info("clients")["connected_clients"]
        wait_until(
            lambda: client.info("clients")["connected_clients"] <= min(busy, MOST_CLIENTS),
            "idle connections to be closed",
            30,
        )

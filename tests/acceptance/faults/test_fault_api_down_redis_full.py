"""The API is down, then Redis gets full, then the API is back: nobody helps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import redis
from fleet import size

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(400, 3000)
FULL_SECONDS = float(size(8, 60))


@pytest.mark.timeout(600)
def test_goals_that_cannot_be_parked_go_back_and_are_delivered_when_the_api_is(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    fleet.api.stop()
    ids = fleet.enqueue(GOALS)
    for pool in ("threads", "prefork"):
        fleet.start(pool=pool, concurrency=4, rate_limit="none", breaker_cooldown_seconds="1")
    fleet.wait_for(lambda now: now.breaker != "closed", "the breaker to open")
    with redis.Redis.from_url(fleet.broker.url) as client:
        client.config_set("maxmemory", 1)
    threading.Event().wait(FULL_SECONDS)
    assert all(worker.is_running for worker in fleet.workers)
    fleet.api.start()
    back = time.time()
    fates = fleet.wait_for_fates(ids, timeout_seconds=90)
    fault(
        "API down, Redis full, API back", fates, max(fates.delivered_at.values(), default=0) - back
    )
    assert fates.lost == fates.unmarked == 0

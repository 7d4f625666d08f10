"""Redis is out of memory while there is a backlog."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import redis
from stack import wait_until

from ninja_tasks import PublishError
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = 300


def test_a_backlog_is_delivered_while_redis_is_full_and_retries_wait_for_room(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    ids = fleet.enqueue(GOALS)
    fleet.api.script(Answer(503))
    with redis.Redis.from_url(fleet.broker.url) as client:
        client.config_set("maxmemory", 1)
        fleet.app.conf.task_publish_retry = False
        with pytest.raises(PublishError):
            fleet.enqueue(1)
        (worker,) = fleet.start(rate_limit="none")
        # The one that is refused needs room to be parked, and is held until there is some.
        fleet.wait_for(lambda now: now.delivered == GOALS - 1, "all deliveries but one")
        wait_until(lambda: "holding goal" in worker.log, "one goal to be held")
        client.config_set("maxmemory", 0)
        room = time.time()
    fates = fleet.wait_for_fates(ids)
    fault("Redis out of memory", fates, max(fates.delivered_at.values()) - room)
    assert fates.lost == fates.duplicated == 0

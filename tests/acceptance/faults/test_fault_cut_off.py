"""A worker is cut off from Redis: nothing it sends arrives, and no connection is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dropping_proxy import DroppingProxy
from fleet import size

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

CUT_SECONDS = size(9, 20)
GOALS = size(400, 2000)


def test_a_worker_that_is_cut_off_is_replaced_by_others_and_comes_back(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    fleet.api.default = Answer(delay_seconds=0.1)
    with DroppingProxy(fleet.broker.port) as proxy:
        behind = f"redis://127.0.0.1:{proxy.port}/0"
        fleet.settings["CELERY_BROKER_URL"] = behind
        (cut,) = fleet.start(concurrency=4, rate_limit="none")
        fleet.settings["CELERY_BROKER_URL"] = fleet.broker.url
        fleet.start(concurrency=4, rate_limit="none")
        ids = fleet.enqueue(GOALS)
        fleet.wait_for(lambda now: now.delivered > GOALS // 10, "the first deliveries")
        held = fleet.held()
        proxy.drop()
        cut_at = time.time()
        threading.Event().wait(CUT_SECONDS)
        proxy.forward()
        ids += fleet.enqueue(100)
        fates = fleet.wait_for_fates(ids, 90)
        seconds = max(fates.delivered_at[name] for name in held) - cut_at
        fault(f"a worker cut off from Redis for {CUT_SECONDS} s", fates, seconds)
        assert fates.lost == fates.unmarked == 0
        received = cut.log.count(" received")
        fleet.workers[1].stop()
        del fleet.workers[1]
        fleet.wait_for_fates(fleet.enqueue(10), 60)
        assert cut.log.count(" received") > received
        fleet.stop()

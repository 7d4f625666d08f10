"""A worker is asked to end while it delivers, and has taken more than it delivers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = 40
POST_SECONDS = 1.5
READ_TIMEOUT_SECONDS = 5


@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.parametrize("redis_is_away", [False, True])
def test_what_is_under_way_is_finished_and_what_was_taken_is_put_back(
    fleet: Fleet, pool: str, redis_is_away: bool, fault: Callable[..., None]
) -> None:
    timeout = str(READ_TIMEOUT_SECONDS)
    (worker,) = fleet.start(
        pool=pool, concurrency=4, rate_limit="none", read_timeout_seconds=timeout
    )
    fleet.api.default = Answer(delay_seconds=POST_SECONDS)
    ids = fleet.enqueue(GOALS)
    fleet.api.wait_for(4, delivered=False)
    if redis_is_away:
        fleet.broker.kill()
    began = time.monotonic()
    assert worker.stop() == 0, worker.log[-3000:]
    seconds = time.monotonic() - began
    fleet.workers.remove(worker)
    assert seconds <= READ_TIMEOUT_SECONDS + 5
    if redis_is_away:
        fleet.broker.start()
    else:
        assert not fleet.held()
        assert fleet.queued() == GOALS - len(fleet.api.delivered)
    fleet.api.default = Answer()
    fleet.start(pool=pool, rate_limit="none")
    fates = fleet.wait_for_fates(ids)
    where = ", Redis away" if redis_is_away else ""
    fault(f"SIGTERM with goals taken ({pool}{where})", fates, seconds)
    assert fates.lost == fates.unmarked == 0
    assert redis_is_away or fates.duplicated == 0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_second_signal_loses_nothing(fleet: Fleet, pool: str, fault: Callable[..., None]) -> None:
    (worker,) = fleet.start(pool=pool, concurrency=4, rate_limit="none")
    fleet.api.default = Answer(delay_seconds=POST_SECONDS)
    ids = fleet.enqueue(GOALS)
    fleet.api.wait_for(4, delivered=False)
    worker.signal(signal.SIGTERM)
    worker.stop()
    fleet.workers.remove(worker)
    fleet.api.default = Answer()
    fleet.start(pool=pool, rate_limit="none")
    fates = fleet.wait_for_fates(ids)
    fault(f"SIGTERM twice ({pool})", fates)
    assert fates.lost == fates.unmarked == 0

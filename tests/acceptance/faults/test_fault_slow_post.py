"""A request that takes longer than the lease of its message, and a worker that is killed in it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import GOAL_ID

from ninja_tasks import enqueue_goal
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

POST_SECONDS = 5.0
SHORT_LEASE = "broker_transport_options = {'visibility_timeout': 2}\n"


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_request_longer_than_the_lease_is_made_once(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    (fleet.directory / "celeryconfig.py").write_text(SHORT_LEASE)
    fleet.start(2, pool=pool, concurrency=2)
    fleet.api.default = Answer(delay_seconds=POST_SECONDS)
    name = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fates = fleet.wait_for_fates([name])
    fault(f"POST of {POST_SECONDS:.0f} s, lease of 2 s ({pool})", fates)
    assert (fates.lost, fates.unknown) == (0, 0)
    assert len(fleet.api.requests) == 1


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_request_whose_worker_is_killed_is_made_again_within_ten_seconds_and_marked(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    (first,) = fleet.start(pool=pool, concurrency=2)
    # It must still run when the second worker is there.
    fleet.api.script(Answer(delay_seconds=30))
    name = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fleet.api.wait_for(1, delivered=False)
    fleet.start(pool=pool, concurrency=2)
    first.kill()
    killed = time.time()
    fleet.workers.remove(first)
    fates = fleet.wait_for_fates([name])
    seconds = fates.delivered_at[name] - killed
    fault(f"kill -9 during a slow POST ({pool})", fates, seconds)
    assert (fates.lost, fates.unmarked, fates.unknown) == (0, 0, 1)
    assert seconds <= 10

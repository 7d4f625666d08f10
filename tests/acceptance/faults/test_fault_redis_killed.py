"""Redis is killed, with everything on its disk, and is back four seconds later."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import GOAL_ID, size

from ninja_tasks import enqueue_goal
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

RUNS = size(1, 10)
GOALS = 60
AWAY_SECONDS = 4.0


def kill_redis_and_bring_it_back(fleet: Fleet) -> float:
    """Return when it was back, in seconds since 1970."""
    fleet.broker.kill()
    threading.Event().wait(AWAY_SECONDS)
    fleet.broker.start()
    return time.time()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("remote_control", [True, False])
def test_workers_whose_prefetch_is_full_resume(
    durable_fleet: Fleet, remote_control: bool, fault: Callable[..., None]
) -> None:
    fleet = durable_fleet
    (fleet.directory / "celeryconfig.py").write_text(
        f"worker_enable_remote_control = {remote_control}\nworker_prefetch_multiplier = 1\n"
    )
    fleet.api.default = Answer(delay_seconds=0.3)
    ids: list[str] = []
    seconds = []
    fleet.start(1, concurrency=4, rate_limit="none")
    for _ in range(RUNS):
        before = len(ids)
        ids += fleet.enqueue(GOALS)
        fleet.wait_for(lambda now, before=before: now.delivered > before, "the first deliveries")
        back = kill_redis_and_bring_it_back(fleet)
        fates = fleet.wait_for_fates(ids)
        seconds.append(min(at for at in fates.delivered_at.values() if at > back) - back)
    name = "on" if remote_control else "off"
    fault(f"Redis killed {RUNS} times, prefetch full, remote control {name}", fates, max(seconds))
    assert fates.lost == fates.duplicated == 0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_with_spare_prefetch_beside_a_held_message_lives_on(
    durable_fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    fleet = durable_fleet
    fleet.start(1, pool=pool, concurrency=4)
    fleet.api.script(Answer(delay_seconds=6))
    held = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fleet.api.wait_for(1, delivered=False)
    back = kill_redis_and_bring_it_back(fleet)
    later = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fates = fleet.wait_for_fates([held, later])
    seconds = fates.delivered_at.get(later, 0) - back
    fault(f"Redis killed beside a held message ({pool})", fates, seconds)
    assert fates.lost == fates.duplicated == fates.unknown == 0

"""Very many parked goals, and a worker that is killed while it brings them back."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis
from fleet import GOAL_ID, size

from ninja_tasks.delivery.parking import ParkedGoal, Parking
from ninja_tasks.delivery.state import Keys

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(4000, 100_000)
CONCURRENCY = 8


def test_a_kill_of_the_worker_that_brings_parked_goals_back_loses_and_doubles_none(
    fleet: Fleet, measured: Callable[..., None]
) -> None:
    now = datetime.now(UTC)
    ids = [str(uuid.uuid4()) for _ in range(GOALS)]
    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        parking = Parking(client, Keys("ninja:"))
        for delivery_id in ids:
            body = {
                "GoalId": GOAL_ID,
                "CustomerId": str(uuid.uuid4()),
                "CreatedOnUtc": "2026-01-01 00:00:00.000001",
            }
            goal = ParkedGoal(body, {"ninja_enqueued_at": now.isoformat()}, retries=1)
            parking.park(delivery_id, goal, enqueued_at=now, seconds=0)
    (first,) = fleet.start(rate_limit="none")
    memory = first.memory_megabytes()
    fleet.wait_for(lambda now: now.parked < 0.8 * GOALS, "the mover to work", 120)
    first.kill()
    fleet.workers.remove(first)
    (second,) = fleet.start(rate_limit="none")
    peak = 0.0

    def drained(now: object) -> bool:
        nonlocal peak
        peak = max(peak, second.memory_megabytes())
        return bool(now.parked == 0 and now.queued == 0)  # type: ignore[attr-defined]

    fleet.wait_for(drained, "all to be moved and taken", 60 + GOALS / 50)
    fleet.wait_for(lambda now: now.delivered == GOALS, "every delivery")
    ledger = fleet.ledger()
    arrived = Counter(one.delivery_id for one in fleet.api.delivered)
    lost = {name for name in ids if ledger.get(name, ["-"])[0] != "d"}
    twice = [name for name, times in arrived.items() if times > 1]
    measured(
        goals=GOALS,
        megabytes_at_start=round(memory, 1),
        megabytes_peak=round(peak, 1),
        delivered=len(ids) - len(lost),
        lost=len(lost),
        sent_twice=len(twice),
    )
    assert not lost
    assert peak < memory + 30
    # Only what the killed worker was sending may have been counted twice, and the ledger says so.
    assert len(twice) <= CONCURRENCY
    assert all(ledger[name][3] == "1" for name in twice)

"""What must hold with each version of the libraries: goals are published, delivered, never lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import GOAL_ID
from kombu import Producer
from stack import wait_until

from ninja_tasks import enqueue_goal, enqueue_goals
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

CUSTOMER_ID = "2eccd743-4164-4892-a416-dc5c16f44971"
POOLS = pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
LONGEST_RECOVERY_SECONDS = 10

Cell = Callable[[str], None]


def test_one_goal_is_published(fleet: Fleet, cell: Cell) -> None:
    enqueue_goal(goal_id=GOAL_ID, customer_id=CUSTOMER_ID, key="1", app=fleet.app)
    assert fleet.queued() == 1
    cell("1 queued")


def test_batches_are_published(fleet: Fleet, cell: Cell) -> None:
    goals = [{"goal_id": GOAL_ID, "customer_id": CUSTOMER_ID}] * 5000
    enqueue_goals(goals[:1], app=fleet.app)
    began = time.monotonic()
    result = enqueue_goals(goals, app=fleet.app)
    took = time.monotonic() - began
    assert len(set(result.delivery_ids)) == fleet.queued() - 1 == len(goals)
    how = "batches" if hasattr(Producer, "batch") else "one by one"
    cell(f"{len(goals):,} in {took:.2f} s, {how}")


@POOLS
def test_all_goals_are_delivered(fleet: Fleet, pool: str, cell: Cell) -> None:
    ids = fleet.enqueue(300)
    (worker,) = fleet.start(pool=pool, concurrency=4, rate_limit="none")
    fates = fleet.wait_for_fates(ids)
    cell(f"{fates.goals - fates.lost} of {fates.goals}")
    assert fates.lost == fates.duplicated == 0
    assert fleet.letters() == {}
    for line in worker.log.splitlines():
        assert "ERROR" not in line
        assert "Traceback" not in line


@POOLS
def test_a_killed_worker_loses_no_goal(fleet: Fleet, pool: str, cell: Cell) -> None:
    fleet.api.default = Answer(delay_seconds=0.01)
    ids = fleet.enqueue(500)
    victim, _other = fleet.start(2, pool=pool, concurrency=4, rate_limit="none")
    wait_until(lambda: len(fleet.api.delivered) >= 100, "the first goals")
    victim.kill()
    killed_at = time.time()
    fleet.workers.remove(victim)
    assert len(fleet.api.delivered) < 400, "it was killed too late to show anything"
    fates = fleet.wait_for_fates(ids)
    recovery_seconds = max(fates.delivered_at.values(), default=killed_at) - killed_at
    cell(f"{fates.lost} of {fates.goals} lost, {recovery_seconds:.1f} s")
    assert fates.lost == fates.unmarked == 0
    assert recovery_seconds <= LONGEST_RECOVERY_SECONDS

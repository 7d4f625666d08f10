"""A goal whose worker dies whenever it is delivered."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import GOAL_ID

from ninja_tasks import enqueue_goal
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_that_kills_its_worker_three_times_becomes_a_dead_letter(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    customer = str(uuid.uuid4())
    fleet.api.script_for(
        lambda one: one.body is not None and one.body.get("CustomerId") == customer,
        then=Answer(delay_seconds=30),
    )
    poison = enqueue_goal(goal_id=GOAL_ID, customer_id=customer, app=fleet.app)
    for number in range(3):
        (worker,) = fleet.start(pool=pool, concurrency=2)
        fleet.api.wait_for(number + 1, delivered=False)
        worker.kill()
        fleet.workers.remove(worker)
    fleet.start(pool=pool, concurrency=2)
    good = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fates = fleet.wait_for_fates([poison, good])
    fault(f"a goal that kills its worker ({pool})", fates)
    assert fates.lost == 0
    assert fleet.letters() == {poison: "worker_lost"}
    letter = fleet.letter(poison)
    assert (letter.attempts, letter.possible_duplicate) == (3, True)
    assert [line.error for line in letter.history] == ["WorkerLost"] * 3
    assert good in fates.delivered_at

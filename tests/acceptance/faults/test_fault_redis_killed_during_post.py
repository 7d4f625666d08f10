"""Redis dies while a goal is being sent, and is back four seconds later."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from fleet import GOAL_ID
from stack import wait_until

from ninja_tasks import enqueue_goal, goal_status
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet


def test_redis_killed_while_a_goal_is_sent_does_not_let_it_be_sent_twice(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    fleet.start()
    fleet.api.default = Answer(200, delay_seconds=1)
    delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=fleet.app)
    fleet.api.wait_for(1, delivered=False)
    fleet.broker.kill()
    killed = time.monotonic()
    fleet.api.wait_for(1)
    wait_until(lambda: f"holding goal {delivery_id}" in fleet.workers[0].log, "it to be held")
    wait_until(lambda: time.monotonic() >= killed + 4, "four seconds")
    fleet.broker.start()
    back = time.time()
    wait_until(
        lambda: goal_status(delivery_id, app=fleet.app).state == "delivered", "the ledger's entry"
    )
    status = goal_status(delivery_id, app=fleet.app)
    assert (status.attempts, status.possible_duplicate) == (1, False)
    assert len(fleet.api.requests) == 1
    fates = fleet.wait_for_fates([delivery_id])
    fault("Redis killed as a POST succeeds", fates, fates.delivered_at[delivery_id] - back)

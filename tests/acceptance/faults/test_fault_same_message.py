"""One goal on the queue several times is sent once."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import GOAL_ID
from stack import clean_environment

from ninja_tasks import goal_status
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_that_is_on_the_queue_five_times_is_sent_once(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    fleet.api.default = Answer(200, delay_seconds=0.5)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    delivery_id = str(uuid.uuid4())
    for _ in range(5):
        fleet.app.send_task(
            "ninja_tasks.reach_goal", args=[body], task_id=delivery_id, queue="ninja_tasks"
        )
    fleet.start(2, pool=pool)
    fleet.wait_for(lambda now: now.delivered == 1, "the delivery")
    fleet.wait_for(lambda now: now.queued == now.parked == 0, "the copies to end")
    assert len(fleet.api.requests) == 1
    assert goal_status(delivery_id, app=fleet.app).attempts == 1
    fault(f"one goal five times on the queue ({pool})", fleet.wait_for_fates([delivery_id]))


def test_a_key_that_five_processes_enqueue_is_sent_once(fleet: Fleet) -> None:
    fleet.start(2)
    code = f"""
from ninja_tasks import enqueue_goal
from celery import Celery
app = Celery("shop", broker={fleet.broker.url!r})
print(enqueue_goal(goal_id={GOAL_ID!r}, customer_id={str(uuid.uuid4())!r}, key="order-1", app=app))
"""
    producers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=clean_environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    ids = {producer.communicate(timeout=60)[0] for producer in producers}
    assert len(ids) == 1
    fleet.wait_for(lambda now: now.delivered == 1, "the delivery")
    fleet.wait_for(lambda now: now.queued == now.parked == 0, "the copies to end")
    assert len(fleet.api.requests) == 1
    assert goal_status(goal_id=GOAL_ID, key="order-1", app=fleet.app).state == "delivered"

"""One goal on the queue several times is sent once; Redis may die meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from stack import clean_environment, wait_until
from stress.conftest import GOAL_ID

from ninja_tasks import enqueue_goal, goal_status
from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from stress.conftest import Fleet


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_goal_that_is_on_the_queue_five_times_is_sent_once(fleet: Fleet, pool: str) -> None:
    fleet.api.default = Answer(200, delay_seconds=0.5)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    delivery_id = str(uuid.uuid4())
    for _ in range(5):
        fleet.app.send_task(
            "ninja_tasks.reach_goal", args=[body], task_id=delivery_id, queue="ninja_tasks"
        )
    # Copies wait for the claim, which lasts as long as the timeouts and a margin.
    fleet.start(2, pool=pool, read_timeout_seconds="2", connect_timeout_seconds="1")
    fleet.wait_for(lambda now: now.delivered == 1, "the delivery")
    fleet.wait_for(lambda now: now.queued == now.parked == 0, "the copies to end")
    assert len(fleet.api.requests) == 1
    assert goal_status(delivery_id, app=fleet.app).attempts == 1


def test_a_key_that_five_processes_enqueue_is_sent_once(fleet: Fleet) -> None:
    fleet.start(2, read_timeout_seconds="2", connect_timeout_seconds="1")
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


def test_redis_killed_while_a_goal_is_sent_does_not_let_it_be_sent_twice(fleet: Fleet) -> None:
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
    wait_until(
        lambda: goal_status(delivery_id, app=fleet.app).state == "delivered", "the ledger's entry"
    )
    status = goal_status(delivery_id, app=fleet.app)
    assert (status.attempts, status.possible_duplicate) == (1, False)
    assert len(fleet.api.requests) == 1
    # Celery's transport for Redis can end its worker when Redis drops: what must hold is the above.
    fleet.workers.pop().end()

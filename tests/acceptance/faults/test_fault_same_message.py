"""One goal on the queue several times is sent once."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from fleet import GOAL_ID
from stack import clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status
from ninja_tasks.dead_letters.replay import replay
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import Answer, CloseConnection

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


def test_a_dead_goal_that_comes_again_is_not_sent_until_it_is_replayed(fleet: Fleet) -> None:
    fleet.api.default = Answer(400, delay_seconds=0.3)
    rejected = str(uuid.uuid4())
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    for _ in range(3):
        fleet.app.send_task(
            "ninja_tasks.reach_goal", args=[body], task_id=rejected, queue="ninja_tasks"
        )
    unknown = enqueue(fleet, "doubt", on_unknown="dead_letter")
    fleet.api.script_for(lambda one: one.delivery_id == unknown, then=CloseConnection())
    exhausted = enqueue(fleet, "worn out")
    fleet.api.script_for(lambda one: one.delivery_id == exhausted, 503, 503, then=200)
    fleet.start(2, max_attempts="2", breaker_threshold="100")
    fleet.wait_for(lambda now: now.dead == 3, "three letters")
    before = {name: fleet.letter(name) for name in (unknown, exhausted)}
    assert {name: (one.reason, one.status) for name, one in before.items()} == {
        unknown: ("unknown", None),
        exhausted: ("exhausted", 503),
    }

    assert enqueue(fleet, "doubt", on_unknown="dead_letter") == unknown
    assert enqueue(fleet, "worn out", page_params={"other": "content"}) == exhausted
    wait_until(lambda: all(fleet.letter(name).copies for name in before), "the copies")
    fleet.wait_for(lambda now: now.queued == now.parked == 0, "the copies to end")
    for name, letter in before.items():
        later = fleet.letter(name)
        assert replace(later, copies=0, last_copy_at=None) == letter
        assert later.copies == 1
    assert Counter(one.delivery_id for one in fleet.api.requests) == {
        rejected: 1,
        unknown: 1,
        exhausted: 2,
    }

    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        store = DeadLetterStore(client, Keys("ninja:"))
        stored = store.get(exhausted)
        assert stored is not None
        assert replay(fleet.app, store, [stored]).queued == 1
    wait_until(lambda: goal_status(exhausted, app=fleet.app).state == "delivered", "the replay")


def enqueue(fleet: Fleet, key: str, **options: Any) -> str:
    return enqueue_goal(
        goal_id=GOAL_ID, customer_id=uuid.uuid4(), key=key, app=fleet.app, **options
    )


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

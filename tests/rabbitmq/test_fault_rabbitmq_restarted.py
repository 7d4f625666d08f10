"""The RabbitMQ node is stopped and started again while workers deliver."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from fleet import GOAL_ID, Fleet
from stack import Worker, clean_environment

from ninja_tasks import enqueue_goals, install
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

if TYPE_CHECKING:
    from rabbitmq_node import Node

GOALS = 400
AWAY_SECONDS = 3.0
SLOTS, POST_SECONDS = 4, 0.1


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_restart_of_the_node_loses_no_goal(
    rabbitmq_node: Node, tmp_path: Path, pool: str, fault: Callable[..., None]
) -> None:
    with embedded_server() as state, FakeSalesNinja(keep_bodies=False) as api:
        settings = {
            "CELERY_BROKER_URL": rabbitmq_node.url,
            "NINJA_REDIS_URL": state.url,
            "NINJA_API_URL": api.url,
            "NINJA_RATE_LIMIT": "none",
        }
        app = install(Celery("shop", broker=rabbitmq_node.url, set_as_current=False))
        app.conf.ninja_redis_url = state.url
        fleet = Fleet(app, state, api, None, tmp_path, settings)
        api.default = Answer(delay_seconds=POST_SECONDS)
        goals = ({"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(GOALS))
        ids = enqueue_goals(goals, app=app).delivery_ids
        with Worker(tmp_path, clean_environment(**settings), pool=pool, concurrency=SLOTS):
            api.wait_for(20)
            rabbitmq_node.stop()
            threading.Event().wait(AWAY_SECONDS)
            rabbitmq_node.start()
            back = time.time()
            fates = fleet.wait_for_fates(ids)
        after = sorted(at for at in fates.delivered_at.values() if at > back)
    fault(f"RabbitMQ node restarted ({pool})", fates, after[0] - back)
    assert fates.lost == fates.unmarked == 0
    # Not one at a time: on a machine as busy as any, at least two of the four slots are used.
    rate = len(after) / (after[-1] - after[0])
    assert rate > 1.5 / POST_SECONDS, f"{rate:.0f} goals a second after the restart"

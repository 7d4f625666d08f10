"""Workers are killed by ``kill -9`` at random moments while they deliver, and replaced."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import redis
from fleet import IN_FULL, size

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(1500, 20_000)
KILLS = size(2, 10)
CONCURRENCY = {"threads": 8, "prefork": 4}
STOCK = """
broker_transport_options = {
    "visibility_timeout": 10,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 5,
}
"""


def kill_again_and_again(fleet: Fleet, pool: str, **settings: str) -> list[tuple[float, set[str]]]:
    """Return when a worker was killed, and what all workers held at that moment."""
    chance = random.Random(20261124)  # noqa: S311 (no secret: the same moments each time)
    workers = fleet.start(
        2, pool=pool, concurrency=CONCURRENCY[pool], rate_limit="none", **settings
    )
    kills = []
    for number in range(KILLS):
        threading.Event().wait(chance.uniform(0.2, 1.0))
        victim = number % 2
        workers[victim].kill()
        kills.append((time.time(), fleet.held()))
        fleet.workers.remove(workers[victim])
        (workers[victim],) = fleet.start(
            pool=pool, concurrency=CONCURRENCY[pool], rate_limit="none", **settings
        )
    return kills


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_killed_worker_loses_no_goal_and_what_it_held_runs_again_within_ten_seconds(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    # The lease of the application's own tasks is not that of goals.
    (fleet.directory / "celeryconfig.py").write_text(
        "broker_transport_options = {'visibility_timeout': 43200}\n"
    )
    fleet.api.default = Answer(delay_seconds=size(40, 5) / 1000)
    ids = fleet.enqueue(GOALS)
    kills = kill_again_and_again(fleet, pool)
    fates = fleet.wait_for_fates(ids, size(120, 400))
    # One that comes back can be held by the next worker that is killed.
    last_held = {name: at for at, held in kills for name in held}
    took = max(fates.delivered_at[name] - at for name, at in last_held.items())
    fault(f"{KILLS} kills of a worker ({pool})", fates, took)
    assert fates.lost == fates.unmarked == 0
    assert fates.duplicated <= KILLS * CONCURRENCY[pool]
    assert took <= 10


@pytest.mark.skipif(not IN_FULL, reason="a comparison, for make stress: it is expected to lose")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_the_same_with_celerys_own_transport_is_shown_for_comparison(
    fleet: Fleet, pool: str, fault: Callable[..., None]
) -> None:
    (fleet.directory / "celeryconfig.py").write_text(STOCK)
    fleet.api.default = Answer(delay_seconds=0.005)
    ids = fleet.enqueue(GOALS)
    kill_again_and_again(fleet, pool, transport="stock")
    fates = fleet.wait_for_fates(ids, 180)
    with redis.Redis.from_url(fleet.broker.url) as client:
        assert not client.exists("unacked", "ninja_tasks"), "it still holds some: wait for longer"
    fault(f"the same with Celery's transport ({pool})", fates)

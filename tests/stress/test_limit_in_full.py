"""Any number of workers, threads and processes share one limit, and use all of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from benchmarks.api import NginxApi, has_nginx
from fleet import IN_FULL, fullest_second
from stack import wait_until

from ninja_tasks.config import load_settings

if TYPE_CHECKING:
    from fleet import Fleet

#: Pool, its size, workers, limit.
MATRIX = [
    ("threads", 16, 2, "60/m"),
    ("threads", 32, 1, "5/s"),
    ("threads", 256, 1, "50/s"),
    ("threads", 32, 6, "50/s"),
    ("prefork", 12, 2, "20/s"),
    ("threads", 32, 1, "1000/s"),
]
SMALL = [("threads", 32, 2, "50/s")]
_FEWEST_GOALS, _SECONDS = 60, 30
_FAST = 500


@pytest.mark.parametrize(("pool", "slots", "workers", "limit"), MATRIX if IN_FULL else SMALL)
def test_a_backlog_is_drained_at_the_limit_and_no_second_exceeds_it(
    fleet: Fleet,
    pool: str,
    slots: int,
    workers: int,
    limit: str,
    measured: Callable[..., None],
) -> None:
    rate = load_settings({}, {"NINJA_RATE_LIMIT": limit}, "redis://").rate_limit
    assert rate is not None
    per_second = rate.goals / rate.seconds
    goals = max(_FEWEST_GOALS, round(per_second * (_SECONDS if IN_FULL else 6)))
    fleet.enqueue(goals)
    with ExitStack() as stack:
        if per_second < _FAST:
            moments = lambda: [one.monotonic for one in fleet.api.delivered]  # noqa: E731
        else:
            # A server in Python takes as much of this machine as the worker.
            assert has_nginx(), "nginx is missing: apt-get install nginx-light"
            api = stack.enter_context(NginxApi(keeps_moments=True))
            fleet.settings["NINJA_API_URL"] = api.url
            moments = api.moments
        fleet.start(workers, pool=pool, concurrency=slots, rate_limit=limit)
        # Who asks all the time takes processors from the workers.
        threading.Event().wait(0.9 * goals / per_second)
        fleet.wait_for(
            lambda now: now.delivered == goals, "every delivery", 60 + 1.5 * goals / per_second
        )
        times = sorted(wait_until(lambda: len(all_ := moments()) == goals and all_, "all moments"))
    (most, begins), took = fullest_second(times), times[-1] - times[0]
    measured(
        limit=limit,
        pool=f"{pool} {slots} x {workers}",
        goals=goals,
        share=round(took / (goals / per_second), 4),
        most_in_a_second=most,
        begins=round(begins, 2),
    )
    # A small run has other tests beside it, which make single requests late.
    assert most <= math.ceil(per_second) + rate.burst * (1 if IN_FULL else 3)
    assert took <= (1.05 if IN_FULL else 1.2) * goals / per_second

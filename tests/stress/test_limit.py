"""Four workers share one limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fleet import size

from ninja_tasks.config import settings_of
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.state import connect

if TYPE_CHECKING:
    from fleet import Fleet

RATE, BURST = 50, 5
GOALS = size(500, 3000)


def fullest_second(times: list[float]) -> tuple[int, float]:
    """Return how many of the times are in the fullest sliding second, and when that begins."""
    most, begins, first = 0, 0.0, 0
    for last, time in enumerate(times):
        while time - times[first] >= 1:
            first += 1
        if last - first + 1 > most:
            most, begins = last - first + 1, times[first] - times[0]
    return most, begins


@contextmanager
def gate_of(fleet: Fleet) -> Iterator[Gate]:
    settings = settings_of(fleet.app)
    with connect(settings) as client:
        yield Gate(settings, client)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_four_workers_stay_below_the_limit_and_use_it(
    fleet: Fleet, pool: str, measured: Callable[..., None]
) -> None:
    # Neither the start of the workers nor our own enqueueing may make requests late.
    with gate_of(fleet) as gate:
        gate.pause()
        fleet.enqueue(GOALS)
        fleet.start(4, pool=pool, concurrency=size(2, 4), rate_limit=f"{RATE}/s")
        gate.resume()
    fleet.wait_for(lambda now: now.delivered == GOALS, "every delivery", 30 + 1.5 * GOALS / RATE)
    times = sorted(one.monotonic for one in fleet.api.delivered)
    (most, begins), took = fullest_second(times), times[-1] - times[0]
    measured(
        pool=pool,
        most_in_a_second=most,
        begins=round(begins, 2),
        drained_at=round(took / (GOALS / RATE), 4),
    )
    assert most <= RATE + BURST
    assert took <= 1.05 * GOALS / RATE

"""Very many dead letters at once: Sentry hears of every class, and is not flooded."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from fleet import GOAL_ID, size
from stack import wait_until

from ninja_tasks import enqueue_goals

if TYPE_CHECKING:
    from fleet import Fleet

LETTERS = size(900, 50_000)
PACE_LETTERS = size(300, 3000)
STATUSES = (400, 404, 422)


def die(fleet: Fleet, count: int) -> float:
    """Let so many goals die, and return how many seconds it took."""
    before, began = fleet.numbers().dead, time.monotonic()
    goals = (
        {"goal_id": GOAL_ID, "customer_id": uuid.uuid4(), "user_params": {"n": str(number)}}
        for number in range(count)
    )
    enqueue_goals(goals, app=fleet.app)
    fleet.wait_for(lambda now: now.dead == before + count, "the letters", 60 + count / 30)
    return time.monotonic() - began


def test_a_flood_of_dead_letters_is_a_handful_of_events_and_the_counts_add_up(
    fleet: Fleet, measured: Callable[..., None]
) -> None:
    for number, status in enumerate(STATUSES):
        fleet.api.script_for(
            lambda one, number=number: (
                int(one.body["CustomUserScopeParams"]["n"]) % len(STATUSES) == number
            ),
            then=status,
        )
    fleet.start(2, pool="threads", rate_limit="none")
    began = time.monotonic()
    die(fleet, 3)
    wait_until(lambda: len(fleet.kent.all_events()) == 3, "Sentry to hear of each class", 10)
    heard = time.monotonic() - began
    die(fleet, LETTERS - 3)
    fleet.stop()
    counts: Counter[str] = Counter()

    def told() -> bool:
        counts.clear()
        for event in fleet.kent.all_events():
            counts[event["tags"]["status_code"]] += event["contexts"]["dead_letter"]["count"]
        return counts.total() == LETTERS

    wait_until(told, "the counts of the events to add up")
    events = fleet.kent.all_events()
    measured(letters=LETTERS, events=len(events), counts=dict(counts), first_after=round(heard, 1))
    assert set(counts) == {str(status) for status in STATUSES}
    assert len(events) <= 20


def test_a_sentry_that_is_away_costs_no_throughput(
    fleet: Fleet, measured: Callable[..., None]
) -> None:
    fleet.api.default = 400
    fleet.start(2, pool="threads", rate_limit="none")
    die(fleet, PACE_LETTERS)
    there = die(fleet, PACE_LETTERS)
    fleet.kent.stop()
    away = die(fleet, PACE_LETTERS)
    measured(seconds_with_sentry=round(there, 2), seconds_without=round(away, 2))
    assert away <= 2 * there

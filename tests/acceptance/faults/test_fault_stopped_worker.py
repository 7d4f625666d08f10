"""A worker that stands still during its request, and comes back when another has sent the goal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from stack import wait_until

from ninja_tasks import goal_status
from ninja_tasks.testing import Answer, CloseConnection, Hang

if TYPE_CHECKING:
    from fleet import Fleet


@pytest.mark.parametrize(
    ("second", "ends"),
    [
        pytest.param(CloseConnection(delay_seconds=4), False, id="lost connection"),
        pytest.param(Hang(), True, id="killed"),
    ],
)
def test_a_goal_that_two_workers_sent_is_marked_though_the_first_settles_first(
    fleet: Fleet, second: Any, ends: bool
) -> None:
    fleet.api.script(Answer(200, delay_seconds=1), second)
    (first,) = fleet.start(concurrency=1)
    (name,) = fleet.enqueue(1)
    fleet.api.wait_for(1, delivered=False)
    first.signal(signal.SIGSTOP)
    (other,) = fleet.start(concurrency=1)
    fleet.api.wait_for(2, 30, delivered=False)
    first.signal(signal.SIGCONT)
    wait_until(lambda: goal_status(name, app=fleet.app).state == "delivered", "the first to settle")
    if ends:
        other.kill()
        fleet.workers.remove(other)
    else:
        fleet.wait_for(lambda now: now.unknown == 1, "the second to settle")
    status = goal_status(name, app=fleet.app)
    assert (status.attempts, status.possible_duplicate) == (2, True)
    fleet.wait_for(lambda now: now.queued == now.parked == 0, "the copies to end")
    assert len(fleet.api.requests) == 2

"""Which messages a worker renews: those of live tasks, and not for ever."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as worker_state

from ninja_tasks.worker.lease import Lease

GOAL = "ninja_tasks.reach_goal"


class Request:
    """Stands for Celery's, which is forgotten when its task has ended."""


class Channel:
    goal_lease_seconds = 6

    def __init__(self, *held: tuple[str, Any]) -> None:
        self.qos = SimpleNamespace(held=lambda: list(held))
        self.renewed: list[str] = []

    def renew(self, tags: list[str]) -> None:
        self.renewed = tags


def message(name: str | None, *, task: str = GOAL, age_seconds: float = 0) -> Any:
    headers = {"id": name, "task": task} if name else {}
    return SimpleNamespace(headers=headers, claimed_at=monotonic() - age_seconds)


def renewed(*messages: Any) -> list[str]:
    channel = Channel(*((str(number), one) for number, one in enumerate(messages)))
    step = Lease(SimpleNamespace(app=None))
    step._channel = channel
    step.work(None)
    return channel.renewed


@pytest.fixture
def live() -> Request:
    request = Request()
    worker_state.requests["live"] = request
    return request


def test_only_messages_of_live_tasks_are_renewed(live: Request) -> None:
    assert live
    unhashable = SimpleNamespace(headers={"id": ["live"]}, claimed_at=monotonic())
    assert renewed(message("live"), message("gone"), message(None), unhashable) == ["0"]


@pytest.mark.parametrize(("task", "bound"), [(GOAL, 600), ("shop.report", 3600)])
def test_a_task_that_never_ends_does_not_keep_its_message(
    live: Request, task: str, bound: int
) -> None:
    assert live
    young = message("live", task=task, age_seconds=bound - 1)
    old = message("live", task=task, age_seconds=bound + 1)
    assert renewed(young, old) == ["0"]

"""Goals that stay in the process: for the tests of an application, without broker and Redis.

They stay where the application's ``task_always_eager`` is on, and inside ``with outbox()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from .message import ON_UNKNOWN_HEADER, Message

__all__ = ["OutboxGoal", "keep", "outbox", "stays_here"]

_outboxes: list[list[OutboxGoal]] = []


@dataclass(frozen=True, slots=True)
class OutboxGoal:
    """A goal that was checked and would have been sent.

    Attributes:
        delivery_id: what ``enqueue_goal`` returned.
        body: the JSON body of the API: ``GoalId``, ``CustomerId``, ``CreatedOnUtc`` and so on.
        key: the key that it was enqueued with.
        on_unknown: the policy that it was enqueued with.
    """

    delivery_id: str
    body: Mapping[str, Any] = field(repr=False)
    key: str | None = None
    on_unknown: str | None = None


@contextmanager
def outbox() -> Iterator[list[OutboxGoal]]:
    """Collect the goals that this process enqueues, in their order, instead of sending any.

    It works for all threads of the process, with and without ``task_always_eager``. One inside
    another collects for itself alone.
    """
    goals: list[OutboxGoal] = []
    _outboxes.append(goals)
    try:
        yield goals
    finally:
        _outboxes[:] = [one for one in _outboxes if one is not goals]


def stays_here(app: Celery) -> bool:
    """Tell whether nothing may leave the process."""
    return bool(_outboxes) or bool(app.conf.task_always_eager)


def keep(message: Message, key: str | None = None) -> None:
    """Put a goal into the innermost outbox; where there is none, it is gone."""
    if _outboxes:
        on_unknown = message.headers.get(ON_UNKNOWN_HEADER)
        _outboxes[-1].append(OutboxGoal(message.delivery_id, message.body, key, on_unknown))

"""Goal conversions into Sales Ninja, through Celery, without losing any.

Importing this package loads what enqueueing needs and no more; the rest is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ConfigurationError,
    DeadLettered,
    InvalidGoal,
    NinjaTasksError,
    PublishError,
    TransientError,
)
from .producer import EnqueueResult, delivery_id_for, enqueue_goal, enqueue_goals

if TYPE_CHECKING:
    from .celery import install
    from .status import GoalStatus, goal_status

__all__ = [
    "ConfigurationError",
    "DeadLettered",
    "EnqueueResult",
    "GoalStatus",
    "InvalidGoal",
    "NinjaTasksError",
    "PublishError",
    "TransientError",
    "delivery_id_for",
    "enqueue_goal",
    "enqueue_goals",
    "goal_status",
    "install",
]

_ON_FIRST_USE = {"GoalStatus": ".status", "goal_status": ".status", "install": ".celery"}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Whether a body is a goal: most are seen to be one at once, and the schema looks at the rest.

Producers and workers ask the same functions. The schema and its library are loaded when the first
body is not plain, so a process that enqueues usual goals never pays for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .errors import InvalidGoal
from .goals import Goal, plain_goal

__all__ = ["goal_from_message", "goal_from_wire"]


def goal_from_wire(body: Any, now: datetime | None = None) -> Goal:
    """Check a JSON body of the API and return it as a goal.

    Args:
        body: the JSON body of the API.
        now: the time that a conversion may not be ahead of. Default: this machine's.

    Raises:
        InvalidGoal: with every fault of the body at once.
    """
    goal = plain_goal(body, now)
    if goal is not None:
        return goal
    from .schemas import load_goal

    return load_goal(body, now)


def goal_from_message(
    args: Sequence[Any], kwargs: Mapping[str, Any], enqueued_at: datetime
) -> Goal:
    """Check the arguments of a task message and return its goal.

    Args:
        args: must be one JSON body of the API.
        kwargs: must be empty.
        enqueued_at: when the goal was enqueued, by its producer's clock, which may be ahead of
            this machine's. It is the time of the conversion where the body has none.

    Raises:
        InvalidGoal: with every fault of the message at once.
    """
    if len(args) != 1 or kwargs:
        raise InvalidGoal(
            {"_schema": ["the task takes one positional argument, the JSON body of the API"]}
        )
    goal = goal_from_wire(args[0], max(datetime.now(UTC), enqueued_at))
    return goal if goal.created_on else replace(goal, created_on=enqueued_at)

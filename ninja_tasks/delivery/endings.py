"""How an execution of ``reach_goal`` ends, and whether its message may be acknowledged then.

A message may be acknowledged only when the outcome of its goal is stored. This module is the one
place that decides it, by what Celery's tracer says of the execution:

===========================  =======================================================
the task                     what is stored
===========================  =======================================================
returned :data:`DELIVERED`   the ledger says that the goal is delivered
raised ``DeadLettered``      a dead letter
raised :class:`Parked`       the goal, parked in Redis
raised :class:`Elsewhere`    another copy of the goal is delivered, dead or parked already
===========================  =======================================================

Anything else (an exception that nobody foresaw, a time limit, a lost or killed process, a greenlet
that was killed and returned nothing) proves nothing, so the message goes back to the queue.
"""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from ..errors import DeadLettered, TransientError

__all__ = [
    "DELIVERED",
    "ENDINGS",
    "Elsewhere",
    "Parked",
    "Unwritable",
    "is_outcome_stored",
    "is_unwritable",
]

#: What the task returns for a goal that is delivered and settled.
DELIVERED = "delivered"
#: What ends the task on purpose; anything else that it raises becomes a dead letter.
ENDINGS = (DeadLettered, TransientError, Retry, Ignore, Reject, SoftTimeLimitExceeded)


class Parked(Retry):  # type: ignore[misc]
    """Raised when the goal was parked; ``exc`` is ``None`` if no request was made."""


class Elsewhere(Ignore):  # type: ignore[misc]
    """Raised when another copy of the goal is delivered, dead or parked, so this one is done."""


class Unwritable(Reject):  # type: ignore[misc]
    """Raised when the goal's dead letter cannot be written; its message's bytes become the letter.

    Args:
        reason: name of the class of what went wrong.
    """

    def __init__(self, reason: str, requeue: bool = True) -> None:
        super().__init__(reason, requeue)


def is_outcome_stored(failed: Any, value: Any) -> bool:
    """Return whether an execution proves that the outcome of its goal is stored.

    Args:
        failed: the first part of the tracer's result, true if the task raised something.
        value: the second: the ``repr`` of what the task returned, or a ``billiard`` or ``celery``
            ``ExceptionInfo``.
    """
    if not failed:
        return bool(value == repr(DELIVERED))
    return isinstance(_raised(value), (DeadLettered, Parked, Elsewhere))


def is_unwritable(exception_info: Any) -> bool:
    """Return whether an execution ended with :class:`Unwritable`."""
    return isinstance(_raised(exception_info), Unwritable)


def _raised(exception_info: Any) -> Any:
    error = getattr(exception_info, "exception", None)
    return error.exc if isinstance(error, ExceptionWithTraceback) else error

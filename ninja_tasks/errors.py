"""Every exception that this package raises on purpose, split by what the caller does next.

::

    NinjaTasksError
    ├── InvalidGoal (ValueError)      mend the data
    ├── ConfigurationError            mend a setting
    ├── PublishError                  enqueue the same goals again when the broker is back
    ├── TransientError                nothing: the worker tries this goal again
    │   ├── NotSent                   the request never left
    │   ├── Refused                   the API said "not now"
    │   └── UnknownOutcome            no clear answer, so the goal may have been counted
    └── DeadLettered                  look at the dead letter, mend the cause, replay

No text of these exceptions holds an IP, a customer id or a parameter's value, and each of them
survives ``pickle``, because prefork workers send exceptions between processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kombu.exceptions import OperationalError

__all__ = [
    "ConfigurationError",
    "DeadLettered",
    "InvalidGoal",
    "NinjaTasksError",
    "NotSent",
    "PublishError",
    "Refused",
    "TransientError",
    "UnknownOutcome",
]

#: A longer field name in a message is cut, so that a hostile payload cannot flood a log.
_LONGEST_NAME = 64


class NinjaTasksError(Exception):
    """Root of every exception of this package."""


class InvalidGoal(NinjaTasksError, ValueError):
    """Raised when a goal breaks a rule of the API; nothing of it was sent.

    Args:
        messages: the faults by field, as marshmallow gives them: a list of sentences for each
            field, and for parameters one more level with the parameter's name.
        index: position of the goal in the iterable of ``enqueue_goals`` (from 0), else ``None``.
        delivery_ids: ids that ``enqueue_goals`` had already sent when it met this goal.
    """

    def __init__(
        self,
        messages: Mapping[Any, Any],
        index: int | None = None,
        delivery_ids: Sequence[str] = (),
    ) -> None:
        super().__init__(messages, index, delivery_ids)
        self.messages = messages
        self.index = index
        self.delivery_ids = delivery_ids

    def __str__(self) -> str:
        which = "" if self.index is None else f" at index {self.index}"
        faults = "; ".join(f"{path}: {text}" for path, text in faults_by_path(self.messages))
        return f"invalid goal{which}: {faults}"


class ConfigurationError(NinjaTasksError):
    """Raised when a setting is missing or cannot be used; the text names it and the remedy."""


class PublishError(NinjaTasksError, OperationalError):  # type: ignore[misc]
    """Raised when the broker did not confirm that it took the goals.

    It is also a ``kombu.exceptions.OperationalError``, as raised by ``task.delay``.

    Args:
        text: what went wrong.
        delivery_ids: ids that the broker has certainly taken (in a call with many goals).
        uncertain_ids: ids that the broker may or may not have taken.
    """

    def __init__(
        self, text: str, delivery_ids: Sequence[str] = (), uncertain_ids: Sequence[str] = ()
    ) -> None:
        super().__init__(text, delivery_ids, uncertain_ids)
        self.delivery_ids = delivery_ids
        self.uncertain_ids = uncertain_ids

    def __str__(self) -> str:
        return str(self.args[0])


class TransientError(NinjaTasksError):
    """Raised when an attempt failed in a way that another attempt may mend.

    Args:
        text: what went wrong.
        retry_after_seconds: the wait that the API asked for, if it did.
    """

    def __init__(self, text: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(text, retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return str(self.args[0])


class NotSent(TransientError):
    """Raised when the request never left, so that the goal cannot have been counted."""


class Refused(TransientError):
    """Raised when the API answered that it does not take the goal now."""


class UnknownOutcome(TransientError):
    """Raised when no clear answer came, so that the goal may have been counted."""


class DeadLettered(NinjaTasksError):
    """Raised in the worker when a goal became a dead letter, after the letter was stored.

    Args:
        delivery_id: the goal's delivery id.
        reason: why it could not be delivered, one of the reasons of a dead letter.
    """

    def __init__(self, delivery_id: str, reason: str) -> None:
        super().__init__(delivery_id, reason)
        self.delivery_id = delivery_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"goal {self.delivery_id} became a dead letter ({self.reason}); "
            f"see: ninja-tasks dead show {self.delivery_id}"
        )


def faults_by_path(messages: Mapping[Any, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    """Yield each fault of nested messages as its dotted path and its sentence."""
    for name, faults in messages.items():
        path = _joined(parent, name)
        if isinstance(faults, Mapping):
            yield from faults_by_path(faults, path)
        elif isinstance(faults, str):
            yield path, faults
        else:
            yield from ((path, str(fault)) for fault in faults)


def told_by(error: BaseException) -> str:
    """Return an exception on one line, without a value that it could not read."""
    # Parsers repeat what they could not read, which can be a part of a password.
    if isinstance(error, ValueError | LookupError | AttributeError | TypeError):
        return type(error).__name__
    return " ".join(f"{type(error).__name__}: {error}".split())


def _joined(parent: str, name: object) -> str:
    if name == "_schema":
        return parent or "goal"
    printable = str(name).encode("unicode_escape").decode("ascii")[:_LONGEST_NAME]
    return f"{parent}.{printable}" if parent else printable

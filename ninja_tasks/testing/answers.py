"""What the fake Sales Ninja can do with a request: answer it, close the connection, stay silent."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Answer", "AnyAnswer", "CloseConnection", "Hang", "Reaction", "as_reaction"]

_STATUSES_WITHOUT_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with this status; the default is the documented success, 200 with an empty body.

    Args:
        status: HTTP status from 200 to 599.
        retry_after: value of the ``Retry-After`` header, seconds or an HTTP date.
        delay_seconds: wait before the answer.
        body: body of the answer.
        headers: more headers, as pairs of name and value.
    """

    status: int = 200
    retry_after: int | str | None = None
    delay_seconds: float = 0.0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"an answer's status is from 200 to 599, not {self.status}")
        if self.body and self.status in _STATUSES_WITHOUT_BODY:
            raise ValueError(f"an answer with status {self.status} cannot have a body")

    @property
    def is_success(self) -> bool:
        """Whether the API took the goal."""
        return self.status < 300


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Read the request, then close the connection without an answer.

    Args:
        delay_seconds: wait before closing.
    """

    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """Read the request, then stay silent until the time is over or the fake API stops.

    Args:
        seconds: how long the connection stays open.
    """

    seconds: float = 3600.0

    @property
    def delay_seconds(self) -> float:
        """The silence, under the name that it has in the other answers."""
        return self.seconds


Reaction = Answer | CloseConnection | Hang

#: What the scripting methods take: 503 means ``Answer(503)``.
AnyAnswer = Reaction | int


def as_reaction(answer: AnyAnswer) -> Reaction:
    """Return the answer itself, or the one that a bare status stands for."""
    return Answer(answer) if isinstance(answer, int) else answer

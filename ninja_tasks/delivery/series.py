"""A series: one thread delivers goal after goal, and asks the gate about each before its turn.

A wait for the gate's answer costs a thread more than the question. So while a goal's request is
under way, the gate is asked about the next goal, and by the time that one's turn comes, the answer
is there. One write to Redis then says three things: what came of the last goal, that the next
begins, and which goal is asked about now.

What keeps that safe:

* The question asked ahead *reserves* a goal. A reservation is no claim: it ends by itself, or with
  its worker, and such a goal was not sent, so nothing is in doubt.
* Only a goal that Redis knows nothing of is reserved. Any other asks in its turn, and waits.
* A goal *begins* by a message that goes to Redis before its request goes to the API; so its
  reservation becomes a claim. If it cannot be sent, or the reservation is older than a second, the
  goal asks in its turn, and waits. The answer is read after the request. (Should Redis lose the
  message, and the worker die before it can repeat it, nobody knows that the goal was sent.)
* A goal's message is acknowledged when Redis has confirmed what came of the goal.

Goals are not asked about ahead where several threads could take the next one, nor where a limit is
so low that the reserved ones could exceed it. A pause, or a hold of the API, that comes between is
obeyed one goal later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from ..message import ATTEMPTS_HEADER, NOT_BEFORE_HEADER, REPLAYS_HEADER
from .gate import BreakerNews, Gate
from .outcomes import Attempt
from .record import DeliveryRecord

__all__ = ["Series", "Upcoming"]

_FRESH_SECONDS = 1.0
_ASKS_IN_ITS_TURN = {ATTEMPTS_HEADER, NOT_BEFORE_HEADER, REPLAYS_HEADER}


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The goal that will likely be this thread's next.

    Attributes:
        delivery_id: the Celery task id.
        headers: of its message.
        token: by which it will be claimed, whichever thread of this process delivers it.
    """

    delivery_id: str
    headers: Mapping[str, Any]
    token: str


@dataclass(slots=True)
class _Reservation:
    delivery_id: str
    token: str
    asked_at: float
    is_granted: bool = False

    def answer(self, word: str) -> None:
        self.is_granted = word == "go"

    def is_younger_than(self, seconds: float) -> bool:
        return monotonic() - self.asked_at < seconds


class Series:
    """What a thread knows between two goals.

    Args:
        gate: the gate.
        upcoming: returns the goal that comes next, ``None`` if that is not sure.
        on_confirmed: is called when Redis has confirmed a settlement.

    Attributes:
        token: by which the goal whose turn it is claims its page.
        left: how many settlements were left for a next question so far.
        confirmed: how many of these Redis has confirmed; it does so in their order.
    """

    def __init__(
        self,
        gate: Gate,
        upcoming: Callable[[], Upcoming | None],
        on_confirmed: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._line = gate.line
        self._upcoming = upcoming
        self._on_confirmed = on_confirmed
        self._reservation: _Reservation | None = None
        self._leave_settlement: Callable[..., None] | None = None
        self.token = ""
        self.left = 0
        self.confirmed = 0

    def ask_about_next(self) -> None:
        """Leave the question about the next goal to be asked with what comes."""
        self._write()
        self._reservation = None
        upcoming = self._upcoming() if self._gate.may_reserve else None
        if upcoming is None or not _ASKS_IN_ITS_TURN.isdisjoint(upcoming.headers):
            return
        reservation = _Reservation(upcoming.delivery_id, upcoming.token, monotonic())
        self._gate.reserve(upcoming.delivery_id, upcoming.token, reservation.answer)
        self._reservation = reservation

    def begin(self, delivery_id: str) -> bool:
        """Send that a reserved goal begins, and return whether that could be done.

        Args:
            delivery_id: of the goal whose turn it is.
        """
        reservation = self._reservation
        if (
            reservation is None
            or not reservation.is_granted
            or (reservation.delivery_id, reservation.token) != (delivery_id, self.token)
            or not reservation.is_younger_than(_FRESH_SECONDS)
            or self._leave_settlement is None
        ):
            return False
        self._write(begins=(reservation.delivery_id, reservation.token))
        self.ask_about_next()
        return self._line.send()

    def settle(
        self,
        record: DeliveryRecord,
        attempt: Attempt,
        report: Callable[[BreakerNews | None], None],
    ) -> None:
        """Leave what came of a goal to be written with what comes; :meth:`catch_up` first.

        Args:
            record: with this attempt in it.
            attempt: the attempt that is over.
            report: is told the news when Redis has confirmed it.
        """

        def confirm(news: BreakerNews | None) -> None:
            self.confirmed += 1
            report(news)
            self._on_confirmed()

        # Whether another goal begins with it is seen when that one's turn has come.
        self._leave_settlement = partial(
            self._gate.settle_with_next, record, attempt, self.token, confirm
        )
        self.left += 1

    def catch_up(self) -> None:
        """Read all answers, and ask what was left.

        Raises:
            redis.RedisError: if an answer is missing; to be repeated then.
        """
        self._write()
        self._line.finish()

    def _write(self, begins: tuple[str, str] | None = None) -> None:
        """Leave the last settlement on the line, with the goal that begins with it if one does."""
        leave, self._leave_settlement = self._leave_settlement, None
        if leave is not None:
            leave(begins)

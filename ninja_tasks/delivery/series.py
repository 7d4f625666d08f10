"""A series: one thread delivers goal after goal, and settles each with the question for the next.

A wait for the gate's answer costs a thread more than the question. So what came of a goal goes to
Redis in the round trip that asks about the next goal. A goal's message is acknowledged when Redis
has confirmed what came of the goal.
"""

from __future__ import annotations

from collections.abc import Callable

from .gate import BreakerNews, Gate
from .outcomes import Attempt
from .record import DeliveryRecord

__all__ = ["Series"]


class Series:
    """What a thread knows between two goals.

    Args:
        gate: the gate.
        on_confirmed: is called when Redis has confirmed a settlement.

    Attributes:
        left: how many settlements were left for a next question so far.
        confirmed: how many of these Redis has confirmed; it does so in their order.
    """

    def __init__(self, gate: Gate, on_confirmed: Callable[[], None]) -> None:
        self._gate = gate
        self._line = gate.line
        self._on_confirmed = on_confirmed
        self.left = 0
        self.confirmed = 0

    def settle(
        self,
        record: DeliveryRecord,
        attempt: Attempt,
        token: str,
        report: Callable[[BreakerNews | None], None],
    ) -> None:
        """Leave what came of a goal to be written with what comes next.

        Args:
            record: with this attempt in it.
            attempt: the attempt that is over.
            token: with which the goal was admitted.
            report: is told the news when Redis has confirmed it.
        """

        def confirm(news: BreakerNews | None) -> None:
            self.confirmed += 1
            report(news)
            self._on_confirmed()

        self._gate.settle_with_next(record, attempt, token, confirm)
        self.left += 1

    def catch_up(self) -> None:
        """Ask what was left, and wait for the answers.

        Raises:
            redis.RedisError: if an answer is missing; to be repeated then.
        """
        self._line.finish()

    def hand_over(self) -> None:
        """Let what is left be written later; its goals' messages must have gone back."""
        for question, then in self._line.take_left():
            self._gate.ask_later(question, then)

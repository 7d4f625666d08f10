"""Steps of the worker's consumer: the mover, the intake, and the reporter.

=========  =====================================================================================
step       what it does
=========  =====================================================================================
Mover      puts parked goals that are due back on the queue; any number of workers may do so
Intake     asks the gate every second, and every two while the worker has nothing to do: takes goals
           only while they may be sent, and wakes the mover when a parked goal is due
Reporter   every ten seconds, and at the worker's end, tells Sentry what was held back when its time
           is over
=========  =====================================================================================

Each step runs in a thread of its own (:mod:`ninja_tasks.worker.periodic`), starts again after each
reconnection, and goes on when Redis or the broker is away.
"""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import redis
from celery.signals import worker_shutdown

from ..config import broker_url_of
from ..dead_letters.malformed import malformed_letter, set_aside
from ..dead_letters.report import Reporter as SentryReporter
from ..dead_letters.store import DeadLetterStore
from ..delivery.documents import UnreadableDocument
from ..delivery.gate import Decision, Gate
from ..delivery.gate import Intake as IntakeState
from ..delivery.parking import Parking
from ..delivery.state import Keys, check_writes
from ..full_redis import although_full
from ..redis_errors import reason_of
from .periodic import PeriodicStep

__all__ = ["Intake", "Mover", "Reporter"]

logger = logging.getLogger(__name__)

_BATCH = 500
_SOON_SECONDS = 0.01
_IDLE_SECONDS = 2.0
_WHEN_WOKEN_SECONDS = 60.0
#: How much later than it is due a parked goal may go, so that not each of many is asked for.
_LATE_SECONDS = 0.25


class Mover(PeriodicStep):
    """Puts parked goals that are due back on the queue."""

    name = "ninja_tasks.Mover"
    requires = ("ninja_tasks.worker.goals:Goals",)
    seconds = 10.0

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.goals.wake_mover = self.wake

    @cached_property
    def _parking(self) -> Parking:
        return Parking(self.state, Keys(self.settings.key_prefix))

    def work(self, consumer: Any) -> float:
        """Move one batch; the next follows soon if this one was full."""
        # Where the queue is in the same Redis, a goal that is moved frees what it takes.
        frees = self.settings.redis_url == broker_url_of(self.app)
        with although_full() if frees else nullcontext():
            moved = self._parking.move_due(
                self.app, _BATCH, partial(self._set_aside, consumer.hostname)
            )
        if moved == _BATCH:
            return _SOON_SECONDS
        # The intake of a worker that takes goals wakes it.
        return _WHEN_WOKEN_SECONDS if consumer.goals.is_wanted else self.seconds

    def _set_aside(
        self, worker: str, delivery_id: str, error: UnreadableDocument, raw: bytes
    ) -> None:
        """Make a dead letter of what was parked and is no goal that this version can read."""
        letter = malformed_letter(
            delivery_id,
            raw,
            error=f"what was parked {error}; its bytes are in the letter",
            error_class=type(error).__name__,
            worker=worker,
        )
        keys = Keys(self.settings.key_prefix)
        set_aside(letter, raw, DeadLetterStore(self.state, keys), SentryReporter(self.state, keys))


class Intake(PeriodicStep):
    """Takes goals from the queue only while they may be sent."""

    name = "ninja_tasks.Intake"

    _WHY = {  # noqa: RUF012 (a table)
        IntakeState.PAUSED: "delivery is paused (ninja-tasks resume)",
        IntakeState.HOLD: "the API asked all workers to wait",
        IntakeState.BREAKER: "the API does not answer; one goal at a time tries it",
    }

    requires = ("ninja_tasks.worker.goals:Goals",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._said: str | None = None

    @cached_property
    def _gate(self) -> Gate:
        return Gate(self.settings, self.state)

    def work(self, consumer: Any) -> float:
        """Decide once; a goal whose outcome could not be stored is better left in the queue."""
        if not consumer.goals.is_wanted:
            return self.seconds
        due_in_seconds = math.inf
        try:
            state, _seconds, due_in_seconds = self._ask(consumer)
            why = self._WHY.get(state)
        except redis.RedisError as error:
            state, why = None, f"the Redis for state takes no writes ({reason_of(error)})"
        if not due_in_seconds:
            consumer.goals.wake_mover()
        if state is not IntakeState.PROBE:
            self._say(why)
        consumer.goals.decide(
            may_send=state in (IntakeState.OPEN, IntakeState.PROBE),
            tries_one=state is IntakeState.PROBE,
        )
        is_idle = state is IntakeState.OPEN and consumer.goals.is_idle
        seconds = _IDLE_SECONDS if is_idle else self.seconds
        return min(seconds, max(due_in_seconds, _LATE_SECONDS))

    def _ask(self, consumer: Any) -> Decision:
        # The question itself is a write that a full Redis takes: where that is the broker too, each
        # delivery frees memory. But RabbitMQ may drop a message that comes back too often.
        if not consumer.goals.is_broker_redis:
            check_writes(self.state, Keys(self.settings.key_prefix), if_full=False)
        return self._gate.intake(consumer.hostname)

    def _say(self, why: str | None) -> None:
        """Write one line when goals are no longer taken, and one when they are again."""
        if why == self._said:
            return
        if why is not None:
            logger.warning("not taking goals: %s", why)
        else:
            logger.warning("taking goals again")
        self._said = why


class Reporter(PeriodicStep):
    """Tells Sentry what was held back, when its time is over."""

    name = "ninja_tasks.Reporter"
    seconds = 10.0

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        # The pool ends after the consumer, and its last goals may have died.
        worker_shutdown.connect(self._tell_the_rest, weak=False)

    @cached_property
    def _reporter(self) -> SentryReporter:
        return SentryReporter(self.state, Keys(self.settings.key_prefix))

    def work(self, consumer: Any) -> float:
        """Tell what is overdue."""
        self._reporter.tell_overdue()
        return self.seconds

    def _tell_the_rest(self, **signal: Any) -> None:
        try:
            self._reporter.tell_overdue(everything=True)
        except redis.RedisError as error:
            logger.warning("Sentry was not told of the last letters: %s", reason_of(error))

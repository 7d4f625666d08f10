"""Making a dead letter: store it, tell people, and stop the task, in this order."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NoReturn

import redis
from celery.exceptions import Reject

from ..delivery.endings import Elsewhere, Unwritable
from ..delivery.gate import Admission, Answer
from ..delivery.outcomes import Attempt
from ..delivery.record import DeliveryRecord
from ..delivery.state import Keys, until_stored
from ..delivery.task import DeliveryTask
from ..errors import DeadLettered
from .report import Reporter
from .store import DeadLetter, DeadLetterStore

__all__ = ["Cause", "bury", "give_up", "letter_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a goal cannot be delivered.

    Attributes:
        reason: one of the reasons of a dead letter.
        error: what went wrong, in words, without data of the goal.
        error_class: name of the exception's class, or of the outcome.
        status: HTTP status, ``None`` without an answer.
        excerpt: start of the answer's body.
    """

    reason: str
    error: str
    error_class: str
    status: int | None = None
    excerpt: str = ""

    @classmethod
    def of_unforeseen(cls, error: Exception) -> Cause:
        """Return the cause of an exception that no rule names.

        Its text could hold personal data; the name of its class cannot.
        """
        name = type(error).__name__
        return cls("failed", f"unforeseen {name}", name)

    @classmethod
    def of_attempt(cls, reason: str, attempt: Attempt) -> Cause:
        """Return the cause that an attempt showed."""
        error_class = attempt.error or attempt.outcome.value
        return cls(reason, attempt.cause, error_class, attempt.status, attempt.excerpt)


_CAUSES = {
    Answer.EXPIRED: Cause("expired", "older than max_age_seconds", "Expired"),
    Answer.EXHAUSTED: Cause("exhausted", "max_attempts were made", "Exhausted"),
    Answer.LOST: Cause("worker_lost", "its worker was lost three times in a row", "WorkerLost"),
    Answer.DOUBT: Cause("unknown", "its worker was lost during the request", "WorkerLost"),
}


def bury(task: DeliveryTask, cause: Cause, record: DeliveryRecord, payload: Any) -> NoReturn:
    """Write a dead letter, and return only when it is stored; then tell people of it.

    Args:
        task: the running task.
        cause: why.
        record: the goal's delivery so far.
        payload: the body of the goal as it came.

    Raises:
        DeadLettered: when the letter is stored; Celery acknowledges the message after it.
        Elsewhere: if the goal is delivered, or has a letter that says more.
        Unwritable: if the letter cannot be written; the worker then stores the message's bytes.
        celery.exceptions.Reject: if Redis does not take it; the message goes back.
    """
    store, reporter = _offices(task.state, task.settings.key_prefix)
    try:
        letter = letter_of(cause, record, payload, task.request.hostname)

        def write_later() -> None:
            if store.put(letter):
                reporter.tell(letter, store)

        is_written = until_stored(
            lambda: store.put(letter),
            letter.delivery_id,
            on_giving_up=lambda: task.gate.unstored.keep(write_later),
        )
    except Reject:
        raise
    except Exception as error:
        raise Unwritable(type(error).__name__) from error
    if not is_written:
        logger.info("goal %s has its outcome already", letter.delivery_id)
        raise Elsewhere
    reporter.tell(letter, store)
    raise DeadLettered(letter.delivery_id, letter.reason)


def give_up(task: DeliveryTask, admission: Admission, payload: Any) -> NoReturn:
    """Give up a goal that may not be sent any more, or is dead already.

    Args:
        task: the running task.
        admission: what the gate said.
        payload: the body of the goal as it came.

    Raises:
        DeadLettered, Elsewhere, Unwritable, celery.exceptions.Reject: as :func:`bury`.
    """
    if admission.answer is Answer.DEAD:
        _leave_buried(task, admission.record.delivery_id)
    bury(task, _CAUSES[admission.answer], admission.record, payload)


def _leave_buried(task: DeliveryTask, delivery_id: str) -> NoReturn:
    """Note in a dead letter that another message for its goal came, which is not sent."""
    store, _reporter = _offices(task.state, task.settings.key_prefix)
    until_stored(lambda: store.note_copy(delivery_id), delivery_id)
    logger.info("goal %s is dead, and is not sent again until it is replayed", delivery_id)
    raise Elsewhere


@cache
def _offices(client: redis.Redis, key_prefix: str) -> tuple[DeadLetterStore, Reporter]:
    """Return the one store and the one reporter of this process."""
    keys = Keys(key_prefix)
    return DeadLetterStore(client, keys), Reporter(client, keys)


def letter_of(cause: Cause, record: DeliveryRecord, payload: Any, worker: str | None) -> DeadLetter:
    """Return the letter of a goal that dies now.

    Args:
        cause: why.
        record: the goal's delivery so far.
        payload: the body of the goal as it came.
        worker: name of the worker that writes it.
    """
    return DeadLetter(
        delivery_id=record.delivery_id,
        reason=cause.reason,
        error=cause.error,
        error_class=cause.error_class,
        status=cause.status,
        excerpt=cause.excerpt,
        attempts=record.made,
        history=record.history,
        doubtful=record.doubtful,
        possible_duplicate=record.possible_duplicate,
        payload=payload,
        on_unknown=record.on_unknown,
        enqueued_at=record.enqueued_at.isoformat(),
        first_attempt_at=record.history[0].at if record.history else None,
        last_attempt_at=record.history[-1].at if record.history else None,
        died_at=datetime.now(UTC).isoformat(),
        worker=worker,
        sentry_event_id=None,
        replays=record.replays,
        others=record.others,
    )

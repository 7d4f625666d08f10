"""Letters of what is no goal: bytes that a worker cannot read, kept as they came."""

from __future__ import annotations

import base64
import uuid
from dataclasses import replace
from datetime import UTC, datetime

from .report import Reporter
from .store import DeadLetter, DeadLetterStore

__all__ = ["id_of", "malformed_letter", "set_aside"]


def malformed_letter(
    delivery_id: str, raw: bytes, *, error: str, error_class: str, worker: str
) -> DeadLetter:
    """Return the letter of bytes that are no goal.

    Args:
        delivery_id: under which they came, or :func:`id_of` them.
        raw: the bytes.
        error: what is wrong, in words, without any of the bytes.
        error_class: name of the exception's class, or what is wrong in few words.
        worker: name of the worker that writes it.
    """
    now = datetime.now(UTC).isoformat()
    return DeadLetter(
        delivery_id=delivery_id,
        reason="malformed",
        error=error,
        error_class=error_class,
        status=None,
        excerpt="",
        attempts=0,
        history=(),
        doubtful=0,
        possible_duplicate=False,
        payload=None,
        on_unknown=None,
        enqueued_at=now,
        first_attempt_at=None,
        last_attempt_at=None,
        died_at=now,
        worker=worker,
        sentry_event_id=None,
        replays=0,
        raw=base64.b64encode(raw).decode(),
    )


def set_aside(letter: DeadLetter, raw: bytes, store: DeadLetterStore, reporter: Reporter) -> None:
    """Write the letter of bytes that are no goal, then tell people of it.

    Raises:
        redis.RedisError: if Redis did not confirm it; to be repeated then.
    """
    if not store.put(letter):
        # Its id is that of a goal; the same bytes have this one again.
        letter = replace(letter, delivery_id=id_of(raw))
        store.put(letter)
    reporter.tell(letter, store)


def id_of(raw: bytes) -> str:
    """Return a delivery id for bytes that came without one."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, raw.hex()))

"""Replaying dead letters: back to the queue with the same id and the same time.

A letter is removed after the broker has taken its goal, and only if it is still the letter that was
read. A replay that is cut off therefore loses nothing; what it had queued keeps its delivery id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery

from ..delivery.record import DeliveryRecord
from ..errors import InvalidGoal, PublishError
from ..goals import dated
from ..message import Message, batches, publish_batch
from ..validation import goal_from_wire
from .store import DeadLetter, DeadLetterStore, StoredLetter

__all__ = ["ReplayResult", "replay"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did.

    Attributes:
        matched: letters that were asked for.
        queued: goals that the broker took.
        skipped: letters whose payload is still invalid; they stay dead letters.
        failed: letters that the broker did not confirm; they stay dead letters too.
    """

    matched: int
    queued: int
    skipped: int
    failed: int

    def __add__(self, other: ReplayResult) -> ReplayResult:
        return ReplayResult(
            self.matched + other.matched,
            self.queued + other.queued,
            self.skipped + other.skipped,
            self.failed + other.failed,
        )


def replay(
    app: Celery, store: DeadLetterStore, letters: Iterable[StoredLetter], *, dry_run: bool = False
) -> ReplayResult:
    """Put dead letters back on the queue.

    Args:
        app: the Celery application.
        store: where the letters are.
        letters: which ones; read batch by batch.
        dry_run: only count what would be queued.
    """
    result = ReplayResult(0, 0, 0, 0)
    for batch in batches(letters, _BATCH):
        result += _replay_batch(app, store, batch, dry_run=dry_run)
    return result


def _replay_batch(
    app: Celery, store: DeadLetterStore, batch: list[StoredLetter], *, dry_run: bool
) -> ReplayResult:
    ready = [stored for stored in batch if _is_deliverable(stored.letter)]
    skipped = len(batch) - len(ready)
    if dry_run:
        return ReplayResult(len(batch), len(ready), skipped, 0)
    now = datetime.now(UTC)
    try:
        publish_batch(app, [_message(stored.letter, now) for stored in ready])
    except PublishError:
        return ReplayResult(len(batch), 0, skipped, len(ready))
    store.remove(*ready)
    return ReplayResult(len(batch), len(ready), skipped, 0)


def _is_deliverable(letter: DeadLetter) -> bool:
    """Return whether a letter holds a goal and its time, which must not become that of a replay."""
    try:
        return goal_from_wire(_body(letter)).created_on is not None
    except InvalidGoal:
        return False


def _body(letter: DeadLetter) -> Any:
    # The payload of a goal that was invalid is as it came, and may have no time.
    try:
        return dated(letter.payload, datetime.fromisoformat(letter.enqueued_at or ""))
    except ValueError:
        return letter.payload


def _message(letter: DeadLetter, now: datetime) -> Message:
    record = DeliveryRecord(
        delivery_id=letter.delivery_id,
        enqueued_at=now,
        on_unknown=letter.on_unknown,
        made=letter.attempts,
        doubtful=letter.doubtful,
        possible_duplicate=letter.possible_duplicate,
        history=letter.history,
        replays=letter.replays,
        others=letter.others,
    )
    return Message(letter.delivery_id, _body(letter), record.replayed(now).headers())

"""Parking: goals that wait in Redis, not in a worker's memory, and their way back to the queue.

A goal is parked under its delivery id, so one that fails twice at the same time is parked once.
What is parked is a document (all that the next message needs) and a due time.

Going back: due goals are claimed (their due time becomes the end of a lease, a number that is
never whole, while due times always are), published, and forgotten if the claim still stands. A
worker that dies in between leaves a claim that runs out; then another publishes the same goal under
the same id, and the gate admits one of the copies. A goal that fails and is parked again before it
is forgotten has a new due time, so the claim no longer stands and it stays.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery

from ..errors import PublishError
from ..message import Message, publish_batch
from ..redis_errors import reason_of
from .documents import UnreadableDocument, as_stored, fields_of, read_object
from .scripts import registered
from .state import Keys

__all__ = ["ParkedGoal", "Parking"]

logger = logging.getLogger(__name__)

_LEASE_SECONDS = 30
_AGAIN_SECONDS = 5


@dataclass(frozen=True, slots=True)
class ParkedGoal:
    """What the next message of a goal needs.

    Attributes:
        body: the JSON body of the API.
        headers: the headers of this package.
        retries: how often Celery has retried it, which decides the next backoff.
        priority: of the message, ``None`` without one.
    """

    body: Any = field(repr=False)
    headers: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    priority: int | None = None

    @classmethod
    def from_document(cls, document: str) -> ParkedGoal:
        """Return a parked goal as it was stored, by this version or a neighbouring one.

        Raises:
            UnreadableDocument: if it is none.
        """
        return cls(**fields_of(cls, read_object(document)))


class Parking:
    """Goals that wait; safe to share between threads.

    Args:
        client: of the state's Redis.
        keys: names of its keys.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = [keys.parked, keys.parked_times, keys.parked_since]
        self._documents, self._times, self._since = self._keys
        self._park: Callable[..., Any] = registered(client, "park")
        self._claim: Callable[..., Any] = registered(client, "claim_due")
        self._release: Callable[..., Any] = registered(client, "release")
        self._unpark: Callable[..., Any] = registered(client, "unpark")

    def park(
        self, delivery_id: str, goal: ParkedGoal, *, enqueued_at: datetime, seconds: float
    ) -> None:
        """Let a goal wait; safe to repeat.

        Args:
            delivery_id: the goal's delivery id.
            goal: what its next message needs.
            enqueued_at: aware datetime, for the age of the oldest goal.
            seconds: how long.

        Raises:
            redis.RedisError: if Redis did not confirm it; the message must be held then.
        """
        document = json.dumps(asdict(goal), separators=(",", ":"))
        milliseconds = max(0, round(seconds * 1000))
        since = round(enqueued_at.timestamp() * 1000)
        self._park(keys=self._keys, args=[delivery_id, document, milliseconds, since])

    def move_due(
        self, app: Celery, limit: int, set_aside: Callable[[str, UnreadableDocument, bytes], None]
    ) -> int:
        """Publish goals that are due, and return how many documents were looked at.

        Args:
            app: the Celery application.
            limit: how many at the most.
            set_aside: stores what cannot be read elsewhere: under which delivery id it was parked,
                why it cannot be read, and its bytes. If that fails, it is tried again when the
                lease is over, and the goals beside it go on.

        Raises:
            PublishError: if the broker did not confirm them; they are due again after 5 seconds.
            redis.RedisError: if Redis does not answer; they are due again when the lease is over.
        """
        claimed = self._claim(keys=self._keys[:2], args=[limit, _LEASE_SECONDS * 1000])
        ids, claims, documents = claimed[::3], claimed[1::3], claimed[2::3]
        if not ids:
            return 0
        messages, pairs = [], []
        for delivery_id, claim, document in zip(ids, claims, documents, strict=True):
            try:
                goal = ParkedGoal.from_document(document)
            except UnreadableDocument as error:
                self._remove_unreadable(delivery_id, claim, document, error, set_aside)
                continue
            messages.append(
                Message(delivery_id, goal.body, goal.headers, goal.retries, goal.priority)
            )
            pairs += [delivery_id, claim]
        try:
            publish_batch(app, messages)
        except PublishError:
            self._release(keys=[self._times], args=[_AGAIN_SECONDS * 1000, *pairs])
            raise
        self._unpark(keys=self._keys, args=pairs)
        return len(ids)

    def _remove_unreadable(
        self,
        delivery_id: str,
        claim: str,
        document: str,
        error: UnreadableDocument,
        set_aside: Callable[[str, UnreadableDocument, bytes], None],
    ) -> None:
        try:
            set_aside(delivery_id, error, as_stored(document))
            self._unpark(keys=self._keys, args=[delivery_id, claim])
        except redis.RedisError as failure:
            logger.warning("a parked document that %s stays: %s", error, reason_of(failure))

    def due_at(self, delivery_id: str) -> datetime | None:
        """Return when a goal is tried again, ``None`` if it is not parked."""
        score = self._client.zscore(self._times, delivery_id)
        return None if score is None else datetime.fromtimestamp(float(score) / 1000, UTC)

    def count(self) -> int:
        """Return how many goals wait."""
        return int(self._client.hlen(self._documents))

    def oldest_since(self) -> datetime | None:
        """Return when the oldest of them was enqueued, ``None`` if none waits."""
        oldest = self._client.zrange(self._since, 0, 0, withscores=True)
        return datetime.fromtimestamp(float(oldest[0][1]) / 1000, UTC) if oldest else None

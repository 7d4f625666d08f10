"""What is known of goals: of one by its id, and of all in numbers. It only reads."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery, current_app
from kombu.exceptions import ChannelError

from .config import settings_of
from .dead_letters.store import DeadLetterStore
from .delivery.gate import LATENCY_BOUNDS, UNDATED, Gate
from .delivery.outcomes import Outcome
from .delivery.parking import Parking
from .delivery.sending_time import enqueued_at, sent_at
from .delivery.state import Keys, connect
from .message import goal_queue
from .outbox import stays_here
from .producer import delivery_id_for

__all__ = ["GoalStatus", "Statistics", "goal_status", "statistics"]

_SHARES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class GoalStatus:
    """Where one goal is; what does not apply is ``None``. Times are ISO 8601 in UTC.

    Attributes:
        delivery_id: the goal's delivery id.
        state: ``"delivered"``, ``"parked"``, ``"dead"``, or ``"pending"``: in the broker, being
            delivered, or never seen, because the broker cannot be asked.
        attempts: attempts made.
        possible_duplicate: whether it was sent again after an attempt that may have counted.
        delivered_at: when the API took it.
        reason: why it is a dead letter.
        due_at: when a parked goal is tried again.
    """

    delivery_id: str
    state: str
    attempts: int | None = None
    possible_duplicate: bool | None = None
    delivered_at: str | None = None
    reason: str | None = None
    due_at: str | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """All goals in numbers.

    Attributes:
        queued: messages that wait in the queue; those that a worker holds are not among them.
        parked: goals that wait in Redis for their next attempt.
        dead: dead letters.
        delivered: goals delivered since the beginning.
        attempts: attempts made since the beginning.
        unknown: attempts since the beginning that may have counted.
        undated: goals since the beginning that came without a time, in a message that did not say
            when it was sent; each was dated when a worker received it.
        breaker: ``"closed"``, ``"open"`` or ``"half_open"``.
        paused: whether a person has paused delivery.
        oldest_pending_seconds: age of the oldest goal that is parked or at the head of the queue;
            ``None`` if there is none, or the broker cannot be asked.
        latency_milliseconds: how long attempts took: ``p50``, ``p95`` and ``p99`` by upper bound
            of their bucket, ``None`` before the first attempt or beyond the last bound.
    """

    queued: int
    parked: int
    dead: int
    delivered: int
    attempts: int
    unknown: int
    undated: int
    breaker: str
    paused: bool
    oldest_pending_seconds: float | None
    latency_milliseconds: dict[str, int | None]


def goal_status(
    delivery_id: str | None = None,
    *,
    goal_id: str | uuid.UUID | None = None,
    key: str | None = None,
    app: Celery | None = None,
) -> GoalStatus:
    """Return where a goal is.

    Where nothing leaves the process, because ``task_always_eager`` is on or an outbox is open, each
    goal is ``"pending"`` and Redis is not asked.

    Args:
        delivery_id: what ``enqueue_goal`` returned.
        goal_id: instead of it, the GUID of the goal in Sales Ninja, together with
        key: the key that the goal was enqueued with.
        app: the Celery application. Default: the current one.

    Raises:
        ValueError: unless either ``delivery_id`` or both of the others are given.
        redis.RedisError: if the Redis that holds state does not answer.
    """
    if (delivery_id is None) == (goal_id is None or key is None):
        raise ValueError("give either delivery_id, or goal_id and key")
    wanted = delivery_id or delivery_id_for(str(goal_id), str(key))
    if stays_here(app or current_app):
        return GoalStatus(wanted, "pending")
    with _opened(app) as (gate, parking, store):
        entry = gate.ledger_entry(wanted)
        if entry and entry.delivered_at:
            return GoalStatus(
                wanted,
                "delivered",
                entry.attempts,
                entry.possible_duplicate,
                delivered_at=entry.delivered_at,
            )
        due_at, stored = parking.due_at(wanted), store.get(wanted)
        attempts = entry.attempts if entry else None
        duplicate = entry.possible_duplicate if entry else None
        if due_at:
            return GoalStatus(
                wanted, "parked", attempts or 0, bool(duplicate), due_at=due_at.isoformat()
            )
        if stored:
            letter = stored.letter
            return GoalStatus(
                wanted, "dead", letter.attempts, letter.possible_duplicate, reason=letter.reason
            )
        return GoalStatus(wanted, "pending", attempts, duplicate)


def statistics(app: Celery | None = None) -> Statistics:
    """Return all goals in numbers.

    Args:
        app: the Celery application. Default: the current one.

    Raises:
        redis.RedisError: if the Redis that holds state does not answer.
        kombu.exceptions.OperationalError: if the broker does not answer.
    """
    with _opened(app) as (gate, parking, store):
        counters, latencies = gate.counters(), gate.latencies()
        dead, parked, parked_since = store.count(), parking.count(), parking.oldest_since()
        breaker, paused = gate.breaker(), gate.is_paused()
    queued, head = _queue(app or current_app)
    parked_for = (datetime.now(UTC) - parked_since).total_seconds() if parked_since else None
    return Statistics(
        queued=queued,
        parked=parked,
        dead=dead,
        delivered=counters.get(Outcome.DELIVERED, 0),
        attempts=counters.get("attempts", 0),
        unknown=counters.get(Outcome.UNKNOWN, 0),
        undated=counters.get(UNDATED, 0),
        breaker=breaker,
        paused=paused,
        oldest_pending_seconds=max(
            (age for age in (head, parked_for) if age is not None), default=None
        ),
        latency_milliseconds={f"p{share}": _percentile(latencies, share) for share in _SHARES},
    )


@contextmanager
def _opened(app: Celery | None) -> Iterator[tuple[Gate, Parking, DeadLetterStore]]:
    settings = settings_of(app or current_app)
    keys = Keys(settings.key_prefix)
    with connect(settings) as client:
        yield Gate(settings, client), Parking(client, keys), DeadLetterStore(client, keys)


def _percentile(latencies: dict[str, int], share: int) -> int | None:
    """Return the upper bound in milliseconds below which this share of the attempts is."""
    wanted, seen = sum(latencies.values()) * share / 100, 0
    for bound in LATENCY_BOUNDS:
        seen += latencies.get(str(bound), 0)
        if wanted and seen >= wanted:
            return bound
    return None


def _queue(app: Any) -> tuple[int, float | None]:
    """Return the length of the queue, and the age of its head where the broker is Redis."""
    queue = goal_queue(app)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        try:
            length = queue(channel).queue_declare(passive=True).message_count
        except ChannelError:
            return 0, None
        if connection.transport.driver_type != "redis":
            return length, None
        heads = [
            head
            for step in channel.priority_steps
            if (head := channel.client.lindex(channel._q_for_pri(queue.name, step), -1))
        ]
    ages = [age for head in heads if (age := _age_seconds(head)) is not None]
    return length, max(ages, default=None)


def _age_seconds(message: bytes) -> float | None:
    now = datetime.now(UTC)
    try:
        document = json.loads(message)
        headers = document["headers"]
        told = enqueued_at(headers)
        sent = (
            datetime.fromisoformat(told) if told else sent_at(headers, document["properties"], now)
        )
        return (now - sent).total_seconds() if sent else None
    except (ValueError, KeyError, TypeError):
        return None

"""How much memory Redis needs for a goal of ours: queued, delivered, parked and dead."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery

from ninja_tasks import enqueue_goals, install
from ninja_tasks.config import Settings, settings_of
from ninja_tasks.dead_letters.burial import Cause, letter_of
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.parking import ParkedGoal, Parking
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.delivery.state import Keys, connect

from .contenders.goals import bodies

__all__ = ["bytes_by_state"]


def bytes_by_state(url: str, goals: int) -> dict[str, float]:
    """Return the bytes for each goal in each state.

    Args:
        url: of a Redis that may be emptied.
        goals: how many are written in each state.
    """
    app = install(Celery("shop", broker=url, set_as_current=False))
    settings = settings_of(app)
    client = connect(settings)
    writers: dict[str, Callable[[], Any]] = {
        "queued": lambda: enqueue_goals(bodies(goals), app=app),
        "delivered": lambda: _deliver(settings, client, goals),
        "parked": lambda: _park(client, goals),
        "dead": lambda: _bury(client, goals),
    }
    found = {}
    for state, write in writers.items():
        client.execute_command("FLUSHALL", "SYNC")
        before = _used(client)
        write()
        found[state] = (_used(client) - before) / goals
    client.execute_command("FLUSHALL", "SYNC")
    return found


def _used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def _record() -> DeliveryRecord:
    return DeliveryRecord(str(uuid.uuid4()), datetime.now(UTC))


def _failed() -> tuple[DeliveryRecord, Attempt]:
    attempt = Attempt(Outcome.REJECTED, datetime.now(UTC), 12, status=400, excerpt="unknown GoalId")
    return _record().after(attempt), attempt


def _deliver(settings: Settings, client: redis.Redis, goals: int) -> None:
    gate = Gate(settings, client)
    attempt = Attempt(Outcome.DELIVERED, datetime.now(UTC), 12, status=200)
    for _ in range(goals):
        record = _record()
        gate.admit(record, "0123abcd", expired=False, stop_on_doubt=False)
        gate.settle_with_next(record.after(attempt), attempt, "0123abcd", bool)
    gate.line.finish()


def _park(client: redis.Redis, goals: int) -> None:
    parking = Parking(client, Keys("ninja:"))
    for body in bodies(goals):
        record, _attempt = _failed()
        goal = ParkedGoal(body, record.headers(), 1)
        parking.park(record.delivery_id, goal, enqueued_at=record.enqueued_at, seconds=600)


def _bury(client: redis.Redis, goals: int) -> None:
    store = DeadLetterStore(client, Keys("ninja:"))
    for body in bodies(goals):
        record, attempt = _failed()
        store.put(letter_of(Cause.of_attempt("rejected", attempt), record, body, "worker@bench"))

"""The gate: what is written when an attempt is over, in one round trip.

``settle`` writes the counters, and for a delivered goal its ledger entry, which is the only proof
of delivery there is: the API gives no receipt. The ledger holds no personal data.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

import redis

from ..config import Settings
from .outcomes import Attempt, Outcome
from .record import DeliveryRecord
from .state import Keys, until_stored

__all__ = ["Gate", "LedgerEntry"]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is remembered of a delivered goal.

    Attributes:
        at: when the answer came, ISO 8601 in UTC.
        attempts: attempts made, the successful one included.
        possible_duplicate: whether it was sent again after an attempt that may have counted.
    """

    at: str
    attempts: int
    possible_duplicate: bool


class Gate:
    """Keeps the books of deliveries in Redis; safe to share between threads.

    Args:
        settings: ``key_prefix`` and ``ledger_ttl_seconds`` are used.
        client: of the state's Redis.
    """

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._keys = Keys(settings.key_prefix)
        self._ledger_ttl_seconds = settings.ledger_ttl_seconds
        self._client = client

    def settle(self, record: DeliveryRecord, attempt: Attempt, now: datetime) -> None:
        """Write what came of an attempt, and return only when Redis has it.

        Args:
            record: with this attempt in it.
            attempt: the attempt that is over.
            now: aware datetime of its end.
        """
        until_stored(lambda: self._settle(record, attempt, now), record.delivery_id)

    def _settle(self, record: DeliveryRecord, attempt: Attempt, now: datetime) -> None:
        with self._client.pipeline() as pipeline:
            pipeline.hincrby(self._keys.counters, "attempts", 1)
            pipeline.hincrby(self._keys.counters, attempt.outcome.value, 1)
            if attempt.outcome is Outcome.DELIVERED:
                entry = LedgerEntry(now.isoformat(), record.made, record.possible_duplicate)
                pipeline.set(
                    self._keys.ledger(record.delivery_id),
                    json.dumps(list(asdict(entry).values()), separators=(",", ":")),
                    ex=self._ledger_ttl_seconds,
                )
            pipeline.execute()

    def ledger_entry(self, delivery_id: str) -> LedgerEntry | None:
        """Return what is remembered of a delivered goal, ``None`` if nothing is."""
        text = self._client.get(self._keys.ledger(delivery_id))
        return None if text is None else LedgerEntry(*json.loads(text))

    def counters(self) -> dict[str, int]:
        """Return the counters since the beginning: attempts, and attempts by outcome."""
        return {
            str(name): int(value)
            for name, value in self._client.hgetall(self._keys.counters).items()
        }

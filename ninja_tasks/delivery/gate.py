"""The gate: may a goal be sent now, and what came of it. One round trip for each question.

``admit`` asks before an attempt. It looks, in this order, whether the goal is delivered, is dead,
is being sent by another worker, or is parked; whether it is to be given up; whether delivery is
paused, held by the API (``Retry-After``) or stopped by the breaker.
If it may go, it is claimed for this process, so that two copies of a goal never go at once. A claim
ends with ``settle``. One whose process is no longer alive (or after ten minutes) means that the
worker was lost, and that the goal may have been counted; after three in a row it is given up.

``settle`` writes the goal's page in the ledger, the breaker's state, the counters and the latency.
``settle_with_next`` does the same in the round trip of this thread's next question, so that a goal
costs one: until it is confirmed, the goal's message must be held.

The breaker opens after some failures in a row, lets one
goal through after a pause, and doubles the pause until that goal succeeds. The clock is Redis'.

A page of the ledger holds no personal data. A delivered goal's page is the only proof of delivery
there is: the API gives no receipt.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import redis

from ..config import Settings
from .line import Line, LineConnections, Question, Script
from .outcomes import Attempt
from .presence import DEAD_AFTER_SECONDS, process_name
from .record import DeliveryRecord
from .scripts import registered
from .state import Keys
from .unstored import Unstored

__all__ = [
    "LATENCY_BOUNDS",
    "UNDATED",
    "Admission",
    "Answer",
    "BreakerNews",
    "Decision",
    "Gate",
    "Intake",
    "LedgerEntry",
    "longest_claim_seconds",
]

#: Counter of goals that were dated when a worker received them.
UNDATED = "undated"
#: Upper bounds of the buckets in which attempts are counted by their duration, in milliseconds.
LATENCY_BOUNDS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000)

#: A living worker whose thread never comes back from a request blocks its goal for so long.
_LONGEST_CLAIM_SECONDS = 600.0
#: A goal whose worker was lost so often is the likely cause.
_MOST_LOSSES = 3
#: A worker that cannot store a dead letter for so long leaves its goal to others.
_BURIAL_MILLISECONDS = 30_000
#: For what happens between the claim and the request, and after the last byte of an answer.
_PROBE_MARGIN_SECONDS = 10.0
_LONGEST_COOLDOWN_SECONDS = 60.0
_LONG_OUTAGE_SECONDS = 30.0
_TURN_MILLISECONDS = 3000


class Answer(StrEnum):
    """What the gate says to a goal."""

    GO = "go"
    DELIVERED = "delivered"
    DEAD = "dead"
    PARKED = "parked"
    BUSY = "busy"
    EXPIRED = "expired"
    DOUBT = "doubt"
    EXHAUSTED = "exhausted"
    LOST = "lost"
    PAUSED = "paused"
    HOLD = "hold"
    BREAKER = "breaker"


class Intake(StrEnum):
    """Whether a worker should take goals from the queue, and if not, why."""

    OPEN = "open"
    PROBE = "probe"
    PAUSED = "paused"
    HOLD = "hold"
    BREAKER = "breaker"


class Decision(NamedTuple):
    """The gate's answer to a worker.

    Attributes:
        state: whether it should take goals from the queue.
        seconds: for how long that is certain.
        due_in_seconds: when the next parked goal is due, infinite if none is parked.
    """

    state: Intake
    seconds: float
    due_in_seconds: float


@dataclass(frozen=True, slots=True)
class Admission:
    """The gate's answer to one goal.

    Attributes:
        answer: what it says.
        record: the goal's record, with what the ledger knows beyond it.
        wait_seconds: after which it is worth asking again.
    """

    answer: Answer
    record: DeliveryRecord
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the ledger says after an attempt.

    Attributes:
        news: of the breaker, ``None`` if there is none.
        record: the goal's record, with what the ledger knows beyond it.
        is_delivered: whether the goal is delivered, by this attempt or another.
    """

    news: BreakerNews | None
    record: DeliveryRecord
    is_delivered: bool


@dataclass(frozen=True, slots=True)
class BreakerNews:
    """What people should hear of the breaker.

    Attributes:
        recovered: whether the API answers again; otherwise it has been silent for long.
        seconds: how long ago the breaker opened.
    """

    recovered: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is remembered of a goal.

    Attributes:
        delivered_at: when the answer came, ISO 8601 in UTC; ``None`` before that.
        attempts: attempts made, the successful one included.
        possible_duplicate: whether it was sent again after an attempt that may have counted.
    """

    delivered_at: str | None
    attempts: int
    possible_duplicate: bool


class Gate:
    """Admits goals and keeps the books in Redis; safe to share between threads.

    Args:
        settings: timeouts, the breaker's numbers and ``key_prefix`` are used.
        client: of the state's Redis.
    """

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._keys = Keys(settings.key_prefix)
        self._client = client
        self._scripts: dict[str, Callable[..., Any]] = {
            name: registered(client, name) for name in ("intake", "breaker")
        }
        self._threads = threading.local()
        self._connections = LineConnections(client)
        #: What is written later, because its goal's message went back.
        self.unstored = Unstored()
        timeouts = settings.connect_timeout_seconds + settings.read_timeout_seconds
        lease = round(1000 * longest_claim_seconds(settings))
        self._admit = Script(
            "admit",
            LEASE=lease,
            LIFE=1000 * settings.ledger_ttl_seconds,
            HEARTBEAT_LIFE=round(1000 * DEAD_AFTER_SECONDS),
            PROBE=round(1000 * (timeouts + _PROBE_MARGIN_SECONDS)),
            MAX_ATTEMPTS=settings.max_attempts,
            MOST_LOSSES=_MOST_LOSSES,
        )
        self._unclaim = Script("unclaim", LIFE=1000 * settings.ledger_ttl_seconds)
        self._settle = Script(
            "settle",
            LIFE=1000 * settings.ledger_ttl_seconds,
            BURIAL=_BURIAL_MILLISECONDS,
            THRESHOLD=settings.breaker_threshold,
            COOLDOWN=1000 * settings.breaker_cooldown_seconds,
            LONGEST_COOLDOWN=1000 * _LONGEST_COOLDOWN_SECONDS,
            LONG_OUTAGE=1000 * _LONG_OUTAGE_SECONDS,
        )

    def admit(
        self, record: DeliveryRecord, token: str, *, expired: bool, stop_on_doubt: bool
    ) -> Admission:
        """Ask whether a goal may be sent now, and claim it if so.

        Args:
            record: as the message tells it.
            token: of this execution of the task; asking again with it continues the same claim.
            expired: whether the goal is too old to be sent.
            stop_on_doubt: whether an attempt that the message does not know of ends the delivery.

        Raises:
            redis.RedisError: if Redis does not answer; the goal must not be sent then.
        """
        admission = self._admission(
            record.delivery_id,
            token,
            (int(expired), int(stop_on_doubt), *_counts(record), record.replays),
        )
        answer, wait, *counts, replays, losses = self.line.ask(admission)
        if losses != "-":
            lost_at = map(_moment, losses.rstrip(",").split(","))
            record = record.with_lost_attempts(lost_at)
        record = _merged(record, counts, replays)
        return Admission(Answer(answer), record, wait / 1000)

    def unclaim(self, delivery_id: str, token: str) -> None:
        """End the claim of a goal that was not sent; safe to repeat.

        Args:
            delivery_id: of the goal.
            token: with which it was asked about.

        Raises:
            redis.RedisError: if Redis did not confirm it; to be repeated then.
        """
        keys = self._keys
        self.line.ask(Question(self._unclaim, (keys.page(delivery_id), keys.gate), (token,)))

    def settle(
        self, record: DeliveryRecord, attempt: Attempt, token: str, *, dies: bool = False
    ) -> Settlement:
        """Write what came of an attempt; safe to repeat.

        Args:
            record: with this attempt in it.
            attempt: the attempt that is over.
            token: with which the goal was admitted.
            dies: whether a dead letter follows; until it is there, the goal is still claimed.

        Raises:
            redis.RedisError: if Redis did not confirm it; to be repeated then.
        """
        answer = self.line.ask(self._settlement(record, attempt, token, dies=dies))
        _word, _since, delivered, *counts = answer
        return Settlement(_news(answer), _merged(record, counts), bool(delivered))

    def settle_with_next(
        self,
        record: DeliveryRecord,
        attempt: Attempt,
        token: str,
        report: Callable[[BreakerNews | None], None],
    ) -> None:
        """Write what came of an attempt along with the next question on this thread's :attr:`line`.

        Args:
            record: with this attempt in it.
            attempt: the attempt that is over.
            token: with which the goal was admitted.
            report: is told the news when Redis has confirmed it.
        """
        settlement = self._settlement(record, attempt, token)
        self.line.leave(settlement, lambda answer: report(_news(answer)))

    def ask_later(self, question: Question, then: Callable[[Any], None]) -> None:
        """Ask in the background, as soon as Redis answers, and hand on the answer."""
        self.unstored.keep(lambda: then(self.line.ask(question)))

    @property
    def line(self) -> Line:
        """This thread's line to Redis; a child process has lines of its own."""
        threads, pid = self._threads, os.getpid()
        if getattr(threads, "pid", None) != pid:
            threads.line, threads.pid = Line(self._connections), pid
        line: Line = threads.line
        return line

    def _admission(self, delivery_id: str, token: str, more: tuple[int, ...]) -> Question:
        keys, process = self._keys, process_name()
        return Question(
            self._admit,
            (
                keys.page(delivery_id),
                keys.parked_times,
                keys.gate,
                keys.heartbeat(process),
                keys.letters,
            ),
            (delivery_id, token, process, *more),
        )

    def _settlement(
        self, record: DeliveryRecord, attempt: Attempt, token: str, *, dies: bool = False
    ) -> Question:
        keys = self._keys
        return Question(
            self._settle,
            (
                keys.page(record.delivery_id),
                keys.gate,
                keys.counters,
                keys.latencies,
                keys.letters,
                keys.letter_times,
            ),
            (
                record.delivery_id,
                token,
                attempt.outcome.value,
                *_counts(record),
                record.replays,
                int(attempt.feeds_breaker),
                round((attempt.retry_after_seconds or 0) * 1000),
                _bucket(attempt.milliseconds),
                int(dies),
            ),
        )

    def intake(self, worker: str) -> Decision:
        """Return whether a worker should take goals, and when a parked one is due.

        Args:
            worker: its name; while the breaker tries one goal, only one worker takes some.
        """
        state, milliseconds, due = self._scripts["intake"](
            keys=[self._keys.gate, self._keys.parked_times],
            args=[worker, _TURN_MILLISECONDS, self._keys.heartbeat("")],
        )
        return Decision(Intake(state), milliseconds / 1000, math.inf if due < 0 else due / 1000)

    def pause(self) -> None:
        """Stop all delivery until :meth:`resume`."""
        self._client.hset(self._keys.gate, "paused", "1")

    def resume(self) -> None:
        """End a pause."""
        self._client.hdel(self._keys.gate, "paused")

    def is_paused(self) -> bool:
        """Return whether a person has paused delivery."""
        return bool(self._client.hexists(self._keys.gate, "paused"))

    def breaker(self) -> str:
        """Return ``"closed"``, ``"open"`` or ``"half_open"``: the pause is over, one goal tries."""
        state: str = self._scripts["breaker"](keys=[self._keys.gate])
        return state

    def ledger_entry(self, delivery_id: str) -> LedgerEntry | None:
        """Return what is remembered of a goal, ``None`` if nothing is."""
        text = self._client.get(self._keys.page(delivery_id))
        if text is None:
            return None
        kind, *words = str(text).split() or [""]
        try:
            if kind == "d":
                at, made, duplicate, *_more = words
                return LedgerEntry(_moment(at).isoformat(), int(made), duplicate == "1")
            return LedgerEntry(None, int(words[0]), words[3] == "1")
        except (ValueError, IndexError, OverflowError):
            # As the scripts read it: nobody knows whether the goal was counted.
            return LedgerEntry(None, 1, possible_duplicate=False)

    def counters(self) -> dict[str, int]:
        """Return the counters since the beginning: attempts, and attempts by outcome."""
        return self._numbers(self._keys.counters)

    def latencies(self) -> dict[str, int]:
        """Return how many attempts took at most so long: by upper bound in ms, or ``"inf"``."""
        return self._numbers(self._keys.latencies)

    def count_undated(self) -> None:
        """Count a goal that nobody dated; it does not wait for a Redis that does not answer."""
        with suppress(redis.RedisError):
            self._client.hincrby(self._keys.counters, UNDATED, 1)

    def _numbers(self, key: str) -> dict[str, int]:
        return {str(name): int(value) for name, value in self._client.hgetall(key).items()}


def longest_claim_seconds(settings: Settings) -> float:
    """Return how long a living worker may need for one goal before its claim on it ends."""
    timeouts = settings.connect_timeout_seconds + settings.read_timeout_seconds
    return max(2 * timeouts, _LONGEST_CLAIM_SECONDS)


def _counts(record: DeliveryRecord) -> tuple[int, int, int, int]:
    return record.made, record.charged, record.doubtful, int(record.possible_duplicate)


def _merged(record: DeliveryRecord, counts: Sequence[int], replays: int = 0) -> DeliveryRecord:
    """Return the record with what the ledger knows beyond it."""
    if (*counts,) == _counts(record) and replays <= record.replays:
        return record
    made, charged, doubtful, duplicate = counts
    return record.merged(
        made=made,
        charged=charged,
        doubtful=doubtful,
        possible_duplicate=bool(duplicate),
        replays=replays,
    )


def _news(answer: Sequence[Any]) -> BreakerNews | None:
    news, milliseconds, *_counts = answer
    return BreakerNews(news == "recovered", milliseconds / 1000) if news else None


def _bucket(milliseconds: int) -> str:
    return next((str(bound) for bound in LATENCY_BOUNDS if milliseconds <= bound), "inf")


def _moment(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)

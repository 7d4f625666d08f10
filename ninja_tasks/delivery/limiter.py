"""The limiter: one for all workers, in Redis. It hands out slots, each of which lets one goal go.

A slot is a point in time at which one goal may be sent; the slots are one interval apart. A worker
asks for as many as it can use soon, and is told in how many milliseconds the first of them comes,
so no clock but Redis' decides when goals go. Slots within a fifth of a second are handed out to
whoever asks; a worker that holds none gets one that lies further ahead.

There is one limit at a time, whatever the settings of the workers are: that of the worker which
started last. So a rolling change of the setting needs no care.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import redis

from ..config import RateLimit
from .line import Script
from .state import Keys

__all__ = ["HORIZON_SECONDS", "Grant", "Limiter"]

#: A worker that is lost takes at most the slots of this time along, and one more.
HORIZON_SECONDS = 0.2
_ALIVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Grant:
    """The limiter's answer.

    Attributes:
        rate: the limit in force, ``None`` for none.
        count: how many slots this worker was given.
        first_in_seconds: when the first of them comes, counted from the question.
    """

    rate: RateLimit | None
    count: int
    first_in_seconds: float

    def times(self) -> list[float]:
        """Return for each slot in how many seconds it comes."""
        if self.rate is None:
            return []
        interval = self.rate.interval_milliseconds / 1000
        return [self.first_in_seconds + number * interval for number in range(self.count)]


class Limiter:
    """Asks for slots; safe to share between threads.

    Args:
        rate: this worker's setting.
        client: of the state's Redis.
        keys: names of its keys.
        worker: this worker's name.
    """

    def __init__(
        self, rate: RateLimit | None, client: redis.Redis, keys: Keys, worker: str
    ) -> None:
        script = Script("slots", HORIZON=1000 * HORIZON_SECONDS, ALIVE=1000 * _ALIVE_SECONDS)
        self._run: Callable[..., Any] = client.register_script(script.text)
        self._keys = [keys.limit, keys.limited_workers]
        self._worker = worker
        self._setting = (rate.goals, rate.seconds) if rate else (0, 1)
        self._started_at = monotonic()

    def ask(self, wanted: int, *, holds: bool) -> Grant:
        """Ask for slots, and tell this worker's setting.

        Args:
            wanted: how many can be used soon; 0 only tells the setting.
            holds: whether this worker has a slot that it has not used yet.

        Raises:
            redis.RedisError: if Redis does not answer.
        """
        age = round(1000 * (monotonic() - self._started_at))
        goals, seconds, count, first = self._run(
            keys=self._keys, args=[self._worker, age, *self._setting, wanted, int(holds)]
        )
        return Grant(RateLimit(goals, seconds) if goals else None, count, first / 1e6)

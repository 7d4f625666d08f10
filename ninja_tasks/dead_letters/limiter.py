"""What keeps fifty thousand dead letters from becoming fifty thousand Sentry events.

All workers share one window for each class of letters. The first letter of a class is told at
once; the others of the same window are counted, and told by the next event: that of the first
letter after the window, or one that :meth:`ReportLimiter.overdue` asks for. So the counts of all
events add up to the number of letters. Where Redis is away each process has windows of its own.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import redis

from ..delivery.scripts import registered
from ..delivery.state import Keys

__all__ = ["WINDOW_SECONDS", "LetterClass", "ReportLimiter", "Untold"]

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 300


@dataclass(frozen=True, slots=True)
class LetterClass:
    """Letters that have one cause: ``status`` is ``"none"`` without an answer."""

    reason: str
    error_class: str
    status: str


@dataclass(frozen=True, slots=True)
class Untold:
    """Letters of one class of which Sentry has not heard.

    Attributes:
        letters: their class.
        count: how many.
        delivery_id: one of them, the last.
    """

    letters: LetterClass
    count: int
    delivery_id: str


class ReportLimiter:
    """Decides which dead letters Sentry is told of; safe to share between threads.

    Args:
        client: of the state's Redis.
        keys: names of its keys.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._key = keys.reports
        self._count: Callable[..., Any] = registered(client, "report")
        self._take: Callable[..., Any] = registered(client, "overdue_reports")
        self._lock = threading.Lock()
        #: End of the local window and letters counted in it, by class.
        self._local: dict[LetterClass, tuple[float, int]] = {}

    def count(self, letters: LetterClass, delivery_id: str) -> int:
        """Count one letter, and return for how many an event is due now: 0 if none is."""
        with self._lock:
            _, carried = self._local.get(letters, (0.0, 0))
        try:
            due = int(
                self._count(
                    keys=[self._key],
                    args=[_name(letters), delivery_id, carried, WINDOW_SECONDS * 1000],
                )
            )
        except redis.RedisError:
            return self._count_locally(letters)
        if carried:
            with self._lock:
                until, now_carried = self._local[letters]
                self._local[letters] = until, now_carried - carried
        return due

    def overdue(self, *, everything: bool = False) -> list[Untold]:
        """Take what no event has told although its window is over, or with ``everything`` all.

        Raises:
            redis.RedisError: if Redis does not answer.
        """
        taken = self._take(keys=[self._key], args=[int(everything), WINDOW_SECONDS * 1000])
        return [
            Untold(_class_named(name), int(count), delivery_id)
            for name, count, delivery_id in zip(taken[::3], taken[1::3], taken[2::3], strict=True)
        ]

    def _count_locally(self, letters: LetterClass) -> int:
        now = time.monotonic()
        with self._lock:
            until, counted = self._local.get(letters, (0.0, 0))
            if now < until:
                self._local[letters] = until, counted + 1
                return 0
            self._local[letters] = now + WINDOW_SECONDS, 0
            return counted + 1


def _name(letters: LetterClass) -> str:
    return json.dumps(astuple(letters))


def _class_named(name: str) -> LetterClass:
    """Return a class as it was counted; one that cannot be read is told of all the same."""
    try:
        reason, error_class, status, *_more = json.loads(name)
    except (ValueError, TypeError, RecursionError):
        return LetterClass("malformed", "UnreadableClass", "none")
    return LetterClass(str(reason), str(error_class), str(status))

"""The slots of the shared limit that one worker holds: which may be used, and when to ask for more.

All decisions and no Redis: the time is an argument, in seconds of the worker's monotonic clock.
Whoever uses this from several threads needs a lock.

A slot may be used from its time on, and for so long that late ones cannot add up to more than the
limit's burst. One that is given back can be used by another goal.
"""

from __future__ import annotations

import math
import threading
from bisect import insort
from typing import NamedTuple

from ..config import RateLimit
from .limiter import HORIZON_SECONDS, Grant

__all__ = ["Slot", "Slots", "slot_was_used", "use_slot"]

#: Beyond what is free in the pool, slots are asked for that it used in so much time before.
_AHEAD_SECONDS = 0.06
#: After this it is asked again whether the limit has changed.
_FRESH_SECONDS = 1.0

_this_thread = threading.local()


def use_slot() -> None:
    """Note that the goal which this thread delivers makes a request."""
    _this_thread.used = True


def slot_was_used() -> bool:
    """Return whether this thread's goal made a request, and forget it."""
    used = getattr(_this_thread, "used", False)
    _this_thread.used = False
    return used


class Slot(NamedTuple):
    """The right to send one goal.

    Attributes:
        at: from when on,
        until: up to when.
    """

    at: float
    until: float


_WITHOUT_LIMIT = Slot(-math.inf, math.inf)


class Slots:
    """What a worker knows of the limit, and the slots that it was given and has not used."""

    def __init__(self) -> None:
        self._rate: RateLimit | None = None
        self._held: list[Slot] = []
        self._asked_at = -math.inf
        self._was_cut = False
        self._used = 0
        self._counted_from = 0.0
        self._pace = 0.0

    @property
    def rate(self) -> RateLimit | None:
        """The limit in force when it was last asked for."""
        return self._rate

    def holds(self, now: float) -> bool:
        """Return whether a slot is left that can still be used."""
        self._forget_late(now)
        return bool(self._held)

    def take(self, now: float) -> Slot | None:
        """Return a slot that may be used now, ``None`` if there is none."""
        if self._rate is None:
            return _WITHOUT_LIMIT if self._is_fresh(now) else None
        self._forget_late(now)
        if not self._held or self._held[0].at > now:
            return None
        self._used += 1
        return self._held.pop(0)

    def give_back(self, slot: Slot) -> None:
        """Keep a slot that was taken and not used."""
        if slot is not _WITHOUT_LIMIT:
            self._used -= 1
            insort(self._held, slot)

    def due_at(self, now: float) -> float:
        """Return when the next slot may be used, infinity if none is known."""
        if self._rate is None:
            return now if self._is_fresh(now) else math.inf
        self._forget_late(now)
        return self._held[0].at if self._held else math.inf

    def wanted(self, now: float, waiting: int, free: int) -> int:
        """Return how many more slots can be used soon.

        Args:
            now: the time.
            waiting: how many goals wait.
            free: how many goals the pool could take now.
        """
        if self._rate is None and self._is_fresh(now):
            return 0
        self._forget_late(now)
        self._measure_pace(now)
        usable = free + int(self._pace * _AHEAD_SECONDS)
        return max(0, min(waiting, usable) - len(self._held))

    def ask_at(self, now: float, waiting: int, free: int) -> float:
        """Return when the limiter is to be asked next; arguments as for :meth:`wanted`."""
        if not waiting:
            return math.inf
        again_at = self._asked_at + _FRESH_SECONDS / 2
        wanted = self.wanted(now, waiting, free)
        if not wanted:
            return again_at
        if not self._held:
            return now
        if self._was_cut:
            return min(again_at, self._asked_at + HORIZON_SECONDS / 2)
        return now if wanted >= len(self._held) else again_at

    def granted(self, asked_at: float, now: float, wanted: int, grant: Grant) -> None:
        """Take what the limiter answered.

        Args:
            asked_at: when it was asked.
            now: the time.
            wanted: for how many slots it was asked.
            grant: its answer.
        """
        self._asked_at = asked_at
        if grant.rate != self._rate:
            self._held = [slot for slot in self._held if slot.at <= now + HORIZON_SECONDS]
            self._rate = grant.rate
        if grant.rate is None:
            self._held.clear()
            return
        self._was_cut = grant.count < wanted
        lateness = _latest(grant.rate)
        for seconds in grant.times():
            at = asked_at + seconds
            insort(self._held, Slot(at, at + lateness))
        if grant.count and not self.holds(now):
            # Redis is so far away that its slots are late when they arrive.
            self._held.append(Slot(now, now + lateness))

    def _is_fresh(self, now: float) -> bool:
        return now < self._asked_at + _FRESH_SECONDS

    def _forget_late(self, now: float) -> None:
        while self._held and self._held[0].until < now:
            self._held.pop(0)

    def _measure_pace(self, now: float) -> None:
        """Follow how many goals go in a second, with a memory of about a second."""
        elapsed = now - self._counted_from
        if elapsed >= _AHEAD_SECONDS:
            share = 1 - math.exp(-elapsed)
            self._pace += (self._used / elapsed - self._pace) * share
            self._used, self._counted_from = 0, now


def _latest(rate: RateLimit) -> float:
    """Return for how many seconds a slot may be used late.

    It is the burst but for one goal, which is left for what happens between the lane and the API.
    """
    return max(1, rate.burst - 1) * rate.interval_milliseconds / 1000

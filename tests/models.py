"""The limit and the breaker as plain Python, to be compared with the scripts that run in Redis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery.limiter import Grant


@dataclass
class LimitModel:
    """One limiter for all workers; all times in milliseconds."""

    horizon: float = 200.0
    alive: float = 10_000.0
    rate: RateLimit | None = None
    by: str = ""
    since: float = -math.inf
    next_at: float = -math.inf
    asked: dict[str, float] = field(default_factory=dict)

    def ask(
        self,
        worker: str,
        started: float,
        rate: RateLimit | None,
        now: float,
        wanted: int,
        *,
        holds: bool,
    ) -> Grant:
        """Hand out slots to a worker that started at a time, and has a setting."""
        if worker == self.by or started >= self.since or self.since > now:
            if rate != self.rate:
                self.next_at = min(self.next_at, now + self.horizon)
            self.rate, self.by, self.since = rate, worker, started
        if self.rate is None:
            return Grant(None, 0, 0.0)
        interval = self.rate.interval_milliseconds
        self.asked[worker] = now
        self.asked = {name: at for name, at in self.asked.items() if now - self.alive < at <= now}
        furthest = now + self.horizon + (len(self.asked) + 1) * interval
        first = min(max(self.next_at, now), furthest)
        count = min(wanted, math.floor((now + self.horizon - first) / interval) + 1)
        count = max(count, 0)
        if not count and wanted and not holds:
            count = 1
        self.next_at = first + count * interval
        return Grant(self.rate, count, (first - now) / 1000)


@dataclass
class BreakerModel:
    """Opens after failures in a row, lets one goal try, doubles its pause; in milliseconds."""

    threshold: int
    first_pause: float
    longest_pause: float
    lease: float
    failures: int = 0
    open_until: float = 0.0
    pause: float = 0.0
    probe: str | None = None
    probe_until: float = 0.0

    def state(self, now: float) -> str:
        if not self.open_until:
            return "closed"
        return "open" if self.open_until > now else "half_open"

    def admits(self, token: str, now: float) -> bool:
        if self.state(now) == "closed":
            return True
        if self.state(now) == "open":
            return False
        if self.probe not in (None, token) and self.probe_until > now:
            return False
        self.probe, self.probe_until = token, now + self.lease
        return True

    def succeeded(self) -> None:
        self.failures, self.open_until, self.pause, self.probe = 0, 0.0, 0.0, None

    def failed(self, token: str, now: float) -> None:
        if not self.open_until:
            self.failures += 1
            if self.failures >= self.threshold:
                self._open(self.first_pause, now)
        elif self.probe == token:
            self._open(min(self.pause * 2, self.longest_pause), now)

    def was_told_to_wait(self, token: str) -> None:
        if self.probe == token:
            self.probe = None

    def _open(self, pause: float, now: float) -> None:
        self.pause, self.open_until, self.probe = pause, now + pause, None

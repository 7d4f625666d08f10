"""The limit and the breaker as plain Python, to be compared with the scripts that run in Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LimitModel:
    """The generic cell rate algorithm; all times in milliseconds."""

    interval: float
    burst: float
    full_at: float = 0.0

    def slot(self, now: float) -> float:
        """Take the next slot and return its time."""
        full_at = max(self.full_at, now)
        self.full_at = full_at + self.interval
        return max(now, full_at - (self.burst - 1) * self.interval)


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

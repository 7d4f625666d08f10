"""A file that is touched while the worker is well, so that a probe need not start Python.

It is touched every two seconds, if a goal could be delivered and its outcome stored: the worker's
loop runs and is connected to the broker, and both Redises take writes. So it grows old when the
loop hangs, when the process is gone, when the broker or the Redis for state is away, has become a
replica, or refuses writes. A Redis that is full but for that well does not matter: goals are
delivered all the same. The setting ``liveness_file`` names it; the probe is one command of any
shell::

    find /tmp/ninja_tasks.alive -mmin -0.5 | grep -q .
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

from ..delivery.state import Keys, check_writes
from .periodic import PeriodicStep

__all__ = ["Liveness"]

_TICK_SECONDS = 1.0
#: A loop that is busier than this is not well.
_LONGEST_TURN_SECONDS = 5.0


class Liveness(PeriodicStep):
    """Touches the file."""

    name = "ninja_tasks.Liveness"
    requires = ("ninja_tasks.worker.goals:Goals",)
    seconds = 2.0

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._ticks: Any = None
        self._ticked_at = 0.0

    @cached_property
    def _file(self) -> Path | None:
        name = self.settings.liveness_file
        return Path(name) if name else None

    def start(self, consumer: Any) -> None:
        """Begin, if there is a file to touch."""
        if self._file is None:
            return
        self._tick()
        self._ticks = consumer.timer.call_repeatedly(_TICK_SECONDS, self._tick)
        super().start(consumer)

    def stop(self, consumer: Any) -> None:
        """Pause: without the broker the worker is not well."""
        super().stop(consumer)
        if self._ticks is not None:
            self._ticks.cancel()

    def _tick(self) -> None:
        self._ticked_at = monotonic()

    def work(self, consumer: Any) -> float:
        """Look whether the worker is well, and touch the file if so."""
        keys = Keys(self.settings.key_prefix)
        check_writes(self.state, keys)
        consumer.goals.source.check_writes(keys)
        is_turning = monotonic() - self._ticked_at < _LONGEST_TURN_SECONDS
        if is_turning and self._is_connected.is_set() and self._file is not None:
            self._file.touch()
        return self.seconds

    def shutdown(self, consumer: Any) -> None:
        """Remove the file: an ended worker is not alive."""
        super().shutdown(consumer)
        if self._file is not None:
            self._file.unlink(missing_ok=True)

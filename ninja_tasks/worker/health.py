"""A file that is touched while the worker is well, so that a probe need not start Python.

The consumer's own loop touches it every two seconds, and only if the broker answers it. So it grows
old when the loop hangs, when the process is gone, and when the broker is away for the worker. The
setting ``liveness_file`` names it; the probe is one command of any shell::

    find /tmp/ninja_tasks.alive -mmin -0.5 | grep -q .
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from .steps import PeriodicStep

__all__ = ["Liveness"]


class Liveness(PeriodicStep):
    """Touches the file."""

    name = "ninja_tasks.Liveness"
    seconds = 2.0

    @cached_property
    def _file(self) -> Path | None:
        name = self.settings.liveness_file
        return Path(name) if name else None

    def start(self, consumer: Any) -> None:
        """Begin, if there is a file to touch."""
        if self._file is not None:
            super().start(consumer)

    def work(self, consumer: Any) -> float:
        """Ask the broker something, then touch the file."""
        channel = consumer.task_consumer.channel
        if consumer.connection.transport.driver_type == "redis":
            with channel.conn_or_acquire() as client:
                client.ping()
        if self._file is not None:
            self._file.touch()
        return self.seconds

    def shutdown(self, consumer: Any) -> None:
        """Remove the file: an ended worker is not alive."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

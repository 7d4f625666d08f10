"""The step by which the gate knows that this worker's processes live, and so whose claims hold."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from ..config import settings_of
from ..delivery.presence import Heartbeat
from ..delivery.state import Keys, shared_client

__all__ = ["Heartbeats"]


class Heartbeats(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has heartbeats written from the first connection on, until the worker ends."""

    name = "ninja_tasks.Heartbeats"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.app = consumer.app
        self._heartbeat: Heartbeat | None = None

    def start(self, consumer: Any) -> None:
        """Begin; a lost connection to the broker ends nothing."""
        if self._heartbeat is None:
            settings = settings_of(self.app)
            keys = Keys(settings.key_prefix)
            self._heartbeat = Heartbeat(
                shared_client(settings), keys, lambda: _children(consumer.pool)
            )
            self._heartbeat.start()

    def stop(self, consumer: Any) -> None:
        """Do nothing: tasks go on without a connection."""

    def shutdown(self, consumer: Any) -> None:
        """End; the pool has ended before."""
        if self._heartbeat is not None:
            self._heartbeat.end()


def _children(pool: Any) -> list[int]:
    """Return the pids of a pool's child processes; a pool of threads has none."""
    found: list[int] = (pool.info or {}).get("processes") or []
    return found

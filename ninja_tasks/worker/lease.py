"""The lease: how Redis knows that what this worker took is still being worked on.

Two things are renewed while the worker lives: the heartbeats of its processes, by which the gate
knows whose claims hold (:mod:`ninja_tasks.delivery.presence`), with any broker; and, with the
crash-safe transport, the leases of the messages whose tasks are waiting or running here.

A message is renewed for ten minutes at the most, or for an hour if it is of another task of the
application, as long as Celery's own transport would keep it: a task that never ends must not keep
its message for ever.

When the connection to Redis is lost, tasks go on. The next connection takes their messages over,
so that they are neither run twice nor acknowledged in vain.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from celery.worker import state as worker_state

from ..delivery.presence import Heartbeat
from ..delivery.state import Keys
from ..message import TASK_NAME
from .periodic import PeriodicStep

__all__ = ["Lease"]

_GOAL_SECONDS = 600.0
_OTHER_TASK_SECONDS = 3600.0


class Lease(PeriodicStep):
    """Renews what this worker holds, three times in each lease."""

    name = "ninja_tasks.Lease"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._heartbeat: Heartbeat | None = None
        self._channel: Any = None

    def start(self, consumer: Any) -> None:
        """Begin; after a lost connection, with the messages of the tasks that went on."""
        if self._heartbeat is None:
            keys = Keys(self.settings.key_prefix)
            self._heartbeat = Heartbeat(self.state, keys, lambda: _children(consumer.pool))
            self._heartbeat.start()
        lost, self._channel = self._channel, consumer.task_consumer.channel
        if not hasattr(self._channel, "renew"):
            self._channel = None
            return
        self._channel.is_taken_over = True
        if lost is not None:
            self._channel.take_over(lost, _still_worked_on(lost, consumer.pool))
        self.seconds = self._channel.goal_lease_seconds / 3
        super().start(consumer)

    def work(self, consumer: Any) -> float:
        """Renew once."""
        now, channel = monotonic(), self._channel
        channel.renew(
            [
                tag
                for tag, message in channel.qos.held()
                if _is_alive(message) and now - message.claimed_at < _bound(message)
            ]
        )
        return self.seconds

    def shutdown(self, consumer: Any) -> None:
        """End: what was taken and not begun is put back when the channel is closed."""
        super().shutdown(consumer)
        if self._channel is not None:
            self._channel.is_taken_over = False
        if self._heartbeat is not None:
            self._heartbeat.end()


def _children(pool: Any) -> list[int]:
    """Return the pids of a pool's child processes; a pool of threads has none."""
    found: list[int] = (pool.info or {}).get("processes") or []
    return found


def _still_worked_on(channel: Any, pool: Any) -> list[Any]:
    """Return the messages of a lost connection whose tasks are running, or will.

    Celery forgets those that wait when a connection is lost, but a pool of threads has them queued.
    """
    messages = [message for _tag, message in channel.qos.held()]
    if hasattr(pool, "executor"):
        return messages
    running = {request.message.delivery_tag for request in tuple(worker_state.active_requests)}
    return [message for message in messages if message.delivery_tag in running]


def _is_alive(message: Any) -> bool:
    try:
        return message.headers["id"] in worker_state.requests
    except (KeyError, TypeError):
        return False


def _bound(message: Any) -> float:
    return _GOAL_SECONDS if message.headers.get("task") == TASK_NAME else _OTHER_TASK_SECONDS

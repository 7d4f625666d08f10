"""Celery's consumer of a worker's queues, without the goal queue.

Celery adds, cancels and shows queues by this object (``-Q``, ``-X``, ``control add_consumer``,
``inspect active_queues``). What it says of the goal queue goes to the goal channel; all other
queues are consumed as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu

__all__ = ["TaskConsumer"]


class TaskConsumer(kombu.Consumer):  # type: ignore[misc]
    """Consumes all queues but one.

    Args:
        original: Celery's own, which has not begun to consume.
        goal_queue: the name of that one.
        want: is told whether it is to be consumed.
    """

    def __init__(
        self, original: kombu.Consumer, goal_queue: str, want: Callable[[bool], None]
    ) -> None:
        self._name, self._want = goal_queue, want
        others = [queue for queue in original.queues if queue.name != goal_queue]
        self._goal_queue = next((one for one in original.queues if one.name == goal_queue), None)
        super().__init__(
            original.channel,
            queues=others,
            on_decode_error=original.on_decode_error,
            # They are declared, and each of these costs a question to the broker.
            auto_declare=False,
        )
        self.accept, self.auto_declare = original.accept, True

    @property
    def queues(self) -> list[kombu.Queue]:
        """All queues, as ``inspect active_queues`` shows them."""
        others = list(kombu.Consumer.queues.fget(self))
        return others if self._goal_queue is None else [*others, self._goal_queue]

    @queues.setter
    def queues(self, queues: list[kombu.Queue]) -> None:
        kombu.Consumer.queues.fset(self, queues)

    def add_queue(self, queue: kombu.Queue) -> kombu.Queue:
        """Add a queue, which is consumed from the next :meth:`consume` on."""
        if queue.name != self._name:
            return super().add_queue(queue)
        self._goal_queue = queue(self.channel)
        self._goal_queue.declare()
        return self._goal_queue

    def consuming_from(self, queue: Any) -> bool:
        """Return whether a queue, or one of this name, is consumed."""
        if _name_of(queue) == self._name:
            return self._goal_queue is not None
        return bool(super().consuming_from(queue))

    def consume(self, no_ack: bool | None = None) -> None:
        """Begin to consume all queues."""
        super().consume(no_ack)
        self._want(self._goal_queue is not None)

    def cancel_by_queue(self, queue: Any) -> None:
        """Cease to consume a queue."""
        if _name_of(queue) == self._name:
            self._goal_queue = None
            self._want(False)
        else:
            super().cancel_by_queue(queue)

    def cancel(self) -> None:
        """Cease to consume all queues."""
        self._want(False)
        super().cancel()

    close = cancel


def _name_of(queue: Any) -> str:
    return str(getattr(queue, "name", queue))

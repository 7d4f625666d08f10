"""The step that lets goals be fetched into the lane, and gives back what has not begun."""

from __future__ import annotations

from typing import Any

from ..message import goal_queue
from .lanes import attach, detach, give_back, lane_of
from .periodic import PeriodicStep

__all__ = ["Fetching"]


class Fetching(PeriodicStep):
    """Lets the lane know its connection, its pool, and whether that serves other queues too."""

    name = "ninja_tasks.Fetching"

    def start(self, consumer: Any) -> None:
        """Begin; called after each connection to the broker."""
        lane = lane_of(consumer)
        if lane is not None:
            attach(consumer, lane)
            super().start(consumer)
            lane.start()

    def work(self, consumer: Any) -> float:
        """Leave half of the pool's slots to the tasks of other queues, if there are any."""
        lane = lane_of(consumer)
        if lane is not None:
            slots = consumer.pool.num_processes
            others = set(self.app.amqp.queues.consume_from) - {goal_queue(self.app).name}
            lane.concurrency = max(1, slots // 2) if others else slots
        return self.seconds

    def stop(self, consumer: Any) -> None:
        """Give back what has not begun; called when the connection is lost and at the end."""
        super().stop(consumer)
        give_back(consumer)

    def shutdown(self, consumer: Any) -> None:
        """End: the pool has ended before."""
        super().shutdown(consumer)
        detach(consumer)

"""What ties a lane to the worker's connection: which goals are fetched, and which given back.

Goals that wait in the lane do not count as fetched messages of the application's other queues. On
the crash-safe transport the goal queue has room of its own. On RabbitMQ the prefetch count is
raised by what waits in a full lane, and the goal queue is not consumed until there is room again.

What has not begun goes back to the queue when the worker ends, when the connection is lost, and,
on the crash-safe transport, when no goals may be sent.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from celery.worker import state as worker_state

from ..config import settings_of
from ..delivery.limiter import Limiter
from ..delivery.presence import process_name
from ..delivery.redis_errors import reason_of
from ..delivery.state import Keys, shared_client
from ..message import goal_queue
from .lane import Lane, PoolLane
from .series import SeriesLane

__all__ = ["attach", "detach", "give_back", "lane_of", "lane_through", "leave_goals", "take_goals"]

logger = logging.getLogger(__name__)

_LANES: WeakKeyDictionary[Any, Lane] = WeakKeyDictionary()


def lane_through(consumer: Any, task: Any) -> Lane:
    """Return the one lane through the consumer's pool: a new connection goes on with it."""
    lane = _LANES.get(consumer.pool)
    if lane is None:
        lane = _LANES[consumer.pool] = _new_lane(consumer, task)
    lane.on_request = consumer.on_task_request
    return lane


def _new_lane(consumer: Any, task: Any) -> Lane:
    settings, pool = settings_of(task.app), consumer.pool
    keys = Keys(settings.key_prefix)
    limiter = Limiter(settings.rate_limit, shared_client(settings), keys, process_name())
    if hasattr(pool, "executor"):
        return SeriesLane(limiter, task, pool, consumer.timer)
    is_green = getattr(pool, "is_green", False)
    return PoolLane(limiter, pool, None if is_green else consumer.call_soon)


def lane_of(consumer: Any) -> Lane | None:
    """Return the lane through the consumer's pool, ``None`` if it delivers no goals."""
    return _LANES.get(consumer.pool)


def attach(consumer: Any, lane: Lane) -> None:
    """Let a lane have its room on a new connection."""
    lane.prefetch = consumer.initial_prefetch_count or 4 * consumer.pool.num_processes
    lane.on_full = lane.on_room = bool
    channel = consumer.task_consumer.channel
    if hasattr(channel, "rooms"):
        channel.rooms[goal_queue(consumer.app).name] = lane
        lane.on_room = channel.connection.cycle.wake
    elif consumer.qos_global or consumer.connection.transport.driver_type != "amqp":
        # Else each queue of RabbitMQ has a prefetch count of its own.
        _Prefetch(consumer, lane)


def detach(consumer: Any) -> None:
    """End the lane: the pool has ended before."""
    lane = _LANES.pop(consumer.pool, None)
    if lane is not None:
        lane.end()


class _Prefetch:
    """Keeps the goals of a full lane from using up RabbitMQ's prefetch count.

    Args:
        consumer: the worker's.
        lane: the lane.
    """

    def __init__(self, consumer: Any, lane: Lane) -> None:
        self._consumer = consumer
        self._lane = lane
        self._added = 0
        self._will_close = False
        lane.on_full = self._add
        lane.on_room = partial(consumer.call_soon, self._reopen)

    def _add(self) -> None:
        """Make room for other messages: for all goals that wait, then for each that still comes."""
        count = 1 if self._added else self._lane.waiting
        self._added += count
        self._consumer.qos.increment_eventually(count)
        if not self._will_close:
            self._will_close = True
            self._consumer.call_soon(self._close)

    def _close(self) -> None:
        self._will_close = False
        if self._added:
            _cancel(self._consumer)

    def _reopen(self) -> None:
        if self._added:
            self._consumer.qos.decrement_eventually(self._added)
            self._added = 0
            if self._lane.may_fetch:
                _consume(self._consumer)


def take_goals(consumer: Any, *, one: bool) -> None:
    """Fetch goals from now on.

    Args:
        consumer: the worker's.
        one: whether the API is tried with one goal at a time.
    """
    lane = lane_of(consumer)
    if lane is not None:
        lane.may_fetch = True
        lane.try_one(one)
    _consume(consumer)


def leave_goals(consumer: Any) -> None:
    """Fetch no goals any more, and give back what has not begun.

    RabbitMQ may drop a message that comes back too often; there, goals that wait are parked.
    """
    lane = lane_of(consumer)
    if lane is not None:
        lane.may_fetch = False
    _cancel(consumer)
    if consumer.task_consumer is not None and hasattr(consumer.task_consumer.channel, "give_back"):
        give_back(consumer)


def _consume(consumer: Any) -> None:
    # Celery's add_task_queue does the same and writes a line, too many of them with a low limit.
    queues = consumer.app.amqp.queues
    queue = queues.select_add(goal_queue(consumer.app))
    if consumer.task_consumer is None:
        # A connection that is being made consumes what is selected.
        return
    if not consumer.task_consumer.consuming_from(queue.name):
        consumer.task_consumer.add_queue(queue)
        consumer.task_consumer.consume()


def _cancel(consumer: Any) -> None:
    name = goal_queue(consumer.app).name
    consumer.app.amqp.queues.deselect(name)
    if consumer.task_consumer is not None:
        consumer.task_consumer.cancel_by_queue(name)


def give_back(consumer: Any) -> None:
    """Put goals that have not begun back on the queue, as the next ones.

    Celery and the pool forget them; if the connection is lost, their messages come back by
    themselves.
    """
    lane = lane_of(consumer)
    if lane is None:
        return
    requests = lane.empty(is_lost=consumer.connection is None)
    for request in requests:
        worker_state.task_ready(request)
    messages = [request.message for request in requests]
    channel: Any = consumer.task_consumer.channel if consumer.task_consumer else None
    if hasattr(channel, "give_back"):
        try:
            channel.give_back([message.delivery_tag for message in messages])
        except consumer.connection_errors as error:
            logger.warning("%d goals come back later: %s", len(messages), reason_of(error))
    elif consumer.connection is not None:
        for message in messages:
            message.reject_log_error(logger, consumer.connection_errors, requeue=True)

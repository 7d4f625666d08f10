"""The goal channel: the step by which a worker takes goals beside the application's own queues.

The application's connection, transport, prefetch count and leases stay Celery's own. Goals come
from a source of their own:

=========================  =======================================================================
source                     where
=========================  =======================================================================
:mod:`.redis_source`       a broker that is a Redis: connections of its own and two threads
:mod:`.channel_source`     RabbitMQ, any other broker, and Redis with ``transport = "stock"``: a
                           second channel on the worker's connection
=========================  =======================================================================

What a source takes goes to Celery's ordinary handler, so requests, events, signals, ``inspect`` and
Flower are Celery's, and from there into the lane.

Goals are taken if three things hold: a person wants them (``-Q``, ``-X``, ``control``), they may be
sent (:class:`.steps.Intake`), and the worker is connected to its broker.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state as worker_state

from ..config import Settings, settings_of
from ..delivery.limiter import Limiter
from ..delivery.presence import process_name
from ..delivery.state import Keys, shared_client
from ..message import goal_queue
from ..tested import is_kombu_tested
from .broker_redis import held_goals_of
from .channel_source import ChannelSource
from .held import OLDER_LEASE_SECONDS
from .lane import Lane, PoolLane, Room
from .loop import Loop
from .redis_source import RedisSource
from .series import SeriesLane
from .taken import Message
from .task_consumer import TaskConsumer

__all__ = ["Goals"]

logger = logging.getLogger(__name__)

#: Where the application wants no bound for its own tasks.
_DEFAULT_MULTIPLIER = 4
_CLOSE_SECONDS = 2.0
#: Goals that a worker may hold whose goals take hardly any time.
_MOST_AHEAD = 64


class Goals(bootsteps.StartStopStep):  # type: ignore[misc]
    """Takes goals; ``consumer.goals`` is the one of a worker.

    Attributes:
        loop: the worker's loop, for other threads.
        source: where goals come from, ``None`` before the worker is connected.
        wake_mover: lets parked goals that are due go back to the queue now.
        is_broker_redis: whether the broker is a Redis.
    """

    name = "ninja_tasks.Goals"
    requires = (
        "celery.worker.consumer.tasks:Tasks",
        "ninja_tasks.worker.malformed:Malformed",
    )

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.goals = self
        consumer.on_close = self._undisturbed(consumer.on_close)
        self.app, self._consumer = consumer.app, consumer
        self.loop = Loop(consumer)
        self.source: RedisSource | ChannelSource | None = None
        self.wake_mover: Callable[[], object] = bool
        self.is_broker_redis = False
        self._broker: str | None = None
        self._lane: Lane | None = None
        self._inbox: deque[Message] = deque()
        self._handler: Callable[[Any], None] = _nowhere
        self._is_wanted = self._is_connected = False
        # No goal is taken before the gate was asked.
        self._may_send = self._tries_one = False

    @cached_property
    def settings(self) -> Settings:
        """The application's settings."""
        return settings_of(self.app)

    @property
    def is_wanted(self) -> bool:
        """Whether this worker consumes the goal queue, whether goals may be sent or not."""
        return self._is_wanted

    @property
    def is_idle(self) -> bool:
        """Whether this worker has no goal."""
        return self._lane is None or self._lane.is_empty

    def lane_of(self, task: Any) -> Lane:
        """Return the one lane through the worker's pool: a new connection goes on with it.

        Args:
            task: ``reach_goal``.
        """
        if self._lane is None:
            self._lane = self._new_lane(task)
        self._lane.on_request = self._consumer.on_task_request
        return self._lane

    def _new_lane(self, task: Any) -> Lane:
        settings, pool = self.settings, self._consumer.pool
        keys = Keys(settings.key_prefix)
        limiter = Limiter(settings.rate_limit, shared_client(settings), keys, process_name())
        if hasattr(pool, "executor"):
            return SeriesLane(limiter, task, pool)
        return PoolLane(limiter, pool, None if self._is_green else self.loop.call_soon)

    @property
    def _is_green(self) -> bool:
        return bool(getattr(self._consumer.pool, "is_green", False))

    def ways_to_end(self, message: Any) -> tuple[Callable[..., None], Callable[..., None]]:
        """Return what acknowledges a message and what rejects it, in any thread.

        Celery's own would count a goal as one of the application's messages: after a lost
        connection, each that ends lets the application fetch more.
        """
        if isinstance(message, Message):
            return message.ack_log_error, message.reject_log_error

        def ack(*arguments: Any) -> None:
            self.loop.call_soon(partial(message.ack_log_error, *arguments))

        def reject(*arguments: Any) -> None:
            self.loop.call_soon(partial(message.reject_log_error, *arguments))

        return ack, reject

    def start(self, consumer: Any) -> None:
        """Begin; called in the worker's loop after each connection to the broker."""
        if self._lane is None:
            logger.error("no goals are taken: the task of this package was replaced")
            return
        self._handler = consumer.create_task_handler()
        self._is_connected = True
        self.is_broker_redis = consumer.connection.transport.driver_type == "redis"
        queue = goal_queue(self.app)
        self._is_wanted = any(one.name == queue.name for one in consumer.task_consumer.queues)
        self.adapt()
        wants_own_way = self.settings.transport == "crash-safe" and is_kombu_tested()
        if self.is_broker_redis and wants_own_way:
            self._use_redis(consumer, self._lane)
        else:
            self.source = ChannelSource(consumer, queue, self._lane, self._handler)
            # The broker sends as many goals as there is room for.
            self._lane.on_room = bool
        consumer.task_consumer = TaskConsumer(consumer.task_consumer, queue.name, self._want)

    def _use_redis(self, consumer: Any, lane: Lane) -> None:
        broker = consumer.connection.as_uri(include_password=True)
        if isinstance(self.source, RedisSource):
            if broker == self._broker:
                return
            self.source.end()
        self._broker = broker
        name = goal_queue(self.app).name
        options = consumer.connection.transport_options or {}
        self.source = RedisSource(
            held_goals_of(consumer.connection, name),
            name,
            consumer.task_consumer.accept,
            self,
            older_lease_seconds=_number(options.get("visibility_timeout")) or OLDER_LEASE_SECONDS,
        )
        # A thread of a pool that has ended a goal takes the next ones by itself.
        takes_itself = isinstance(lane, SeriesLane)
        lane.on_room = self.source.fetch if takes_itself else self.source.wake
        self.source.start()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Be heard by the worker's loop; called after each connection."""
        self.loop.register(hub)

    def adapt(self) -> None:
        """Follow the pool, which can grow and shrink, and the queues that it serves."""
        lane, slots = self._lane, self._consumer.pool.num_processes or 1
        if lane is None:
            return
        others = set(self.app.amqp.queues.consume_from) - {goal_queue(self.app).name}
        most = max(1, slots // 2) if others else slots
        lane.concurrency = min(self.settings.concurrency or most, slots)
        lane.prefetch = lane.concurrency * self._multiplier
        lane.most_ahead = _MOST_AHEAD if self._multiplier > 1 else 0

    @cached_property
    def _multiplier(self) -> int:
        if getattr(self.app.conf, "worker_disable_prefetch", False):
            return 1
        return int(self._consumer.prefetch_multiplier or _DEFAULT_MULTIPLIER)

    def decide(self, *, may_send: bool, tries_one: bool) -> None:
        """Take goals, or take none for a while; from any thread.

        Args:
            may_send: whether goals may be sent.
            tries_one: whether the API is tried with one goal at a time.
        """
        self.adapt()
        before = self._may_send, self._tries_one
        self._may_send, self._tries_one = may_send, tries_one
        if before != (may_send, tries_one) or isinstance(self.source, ChannelSource):
            if self._is_green and isinstance(self.source, RedisSource):
                # Its loop looks for calls every two seconds only.
                self._apply()
            else:
                self.loop.call_soon(self._apply)

    def _want(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._apply()

    def _apply(self) -> None:
        """Do what was decided; called in the worker's loop."""
        lane, source = self._lane, self.source
        if lane is None or source is None or not self._is_connected:
            return
        is_open = self._is_wanted and self._may_send
        if is_open:
            lane.start()
        lane.try_one(self._tries_one)
        source.open(is_open)
        source.resize()
        if not is_open and source.gives_back_freely:
            # Elsewhere the goals that wait are parked by their tasks.
            self._give_back()

    def _give_back(self, *, is_lost: bool = False) -> None:
        """Put goals that have not begun back on the queue; Celery forgets them."""
        if self._lane is None or self.source is None:
            return
        requests = self._lane.empty(is_lost=is_lost)
        for request in requests:
            worker_state.task_ready(request)
        messages = [request.message for request in requests]
        while self._inbox:
            messages.append(self._inbox.popleft())
        if isinstance(self.source, RedisSource) or not is_lost:
            self.source.give_back(messages)

    def _undisturbed(self, on_close: Callable[[], None]) -> Callable[[], None]:
        """Return Celery's clean-up after a lost connection, beside which no request is made."""

        def close() -> None:
            if not isinstance(self.source, RedisSource):
                on_close()
                return
            self.source.open(False)
            receiving = self.source.receiving
            is_alone = receiving.acquire(timeout=_CLOSE_SECONDS)
            try:
                on_close()
            finally:
                if is_alone:
                    receiving.release()

        return close

    def room(self) -> Room:
        """Return for how many more goals there is room."""
        if self._lane is None:
            return Room(0, 1)
        room = self._lane.room()
        return room._replace(free=max(0, room.free - len(self._inbox)))

    def receive(self, messages: list[Message]) -> None:
        """Let Celery make requests of messages; called by one thread of the source at a time."""
        if self._is_green or isinstance(self._lane, SeriesLane):
            for message in messages:
                self._handler(message)
            return
        self._inbox.extend(messages)
        self.loop.call_soon(self._take_in)

    def _take_in(self) -> None:
        # A solo pool runs the task here: others of the loop have their turn between two.
        is_solo = isinstance(self._consumer.pool, SoloPool)
        for _ in range(1 if is_solo else len(self._inbox)):
            if not self._inbox:
                return
            self._handler(self._inbox.popleft())
        if self._inbox:
            self.loop.call_soon(self._take_in)

    def is_alive(self, message: Message) -> bool:
        """Return whether a message that is held is still worked on, or will be."""
        if message in tuple(self._inbox):
            return True
        try:
            return message.headers["id"] in worker_state.requests
        except (KeyError, TypeError):
            return False

    def stop(self, consumer: Any) -> None:
        """Give back what has not begun; called when the connection is lost and at the end."""
        self._is_connected = False
        if self.source is None:
            return
        is_lost = consumer.connection is None
        self.source.open(False)
        self._give_back(is_lost=is_lost)
        if isinstance(self.source, ChannelSource) and is_lost:
            self.source = None

    def shutdown(self, consumer: Any) -> None:
        """End: the pool has ended before."""
        if self._lane is not None:
            self._lane.end()
        self.loop.work()
        if self.source is not None:
            self.source.end()
        self.loop.close()


def _number(option: Any) -> float | None:
    is_number = isinstance(option, int | float) and not isinstance(option, bool)
    return float(option) if is_number else None


def _nowhere(message: Any) -> None:
    raise RuntimeError("this worker is not connected to its broker")

"""Where a worker's goals come from on RabbitMQ, and on any broker that kombu serves by itself.

A second channel on the worker's connection, with a prefetch count of its own. So goals that wait
for the limit use up nothing of what the application's tasks may fetch. The prefetch count follows
the room in the lane, because RabbitMQ closes the channel of a worker that holds a message for half
an hour.

An AMQP connection has one user at a time: all methods are called in the worker's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import kombu

from ..delivery.state import Keys, check_writes
from .lane import Lane

__all__ = ["ChannelSource"]

logger = logging.getLogger(__name__)


class ChannelSource:
    """Takes goals by a channel of kombu's; made anew for each connection.

    Args:
        consumer: the worker's.
        queue: the goal queue.
        lane: where goals wait.
        receive: Celery's handler of messages.
    """

    #: RabbitMQ may drop a message that comes back too often.
    gives_back_freely = False

    def __init__(
        self, consumer: Any, queue: kombu.Queue, lane: Lane, receive: Callable[[Any], None]
    ) -> None:
        self._lane = lane
        self._errors = (*consumer.connection_errors, *consumer.channel_errors)
        self._channel = consumer.connection.channel()
        self._consumer = kombu.Consumer(
            self._channel,
            queues=[queue],
            on_message=receive,
            on_decode_error=consumer.on_decode_error,
        )
        self._consumer.accept = consumer.task_consumer.accept
        self._is_open = False
        self._prefetch = 0

    def open(self, is_open: bool) -> None:
        """Begin or cease to take goals."""
        if is_open == self._is_open:
            return
        self._is_open = is_open
        if is_open:
            self._consume()
        else:
            with suppress(*self._errors):
                self._consumer.cancel()

    def resize(self) -> None:
        """Let the prefetch count follow the room."""
        wanted = self._lane.room().most_held
        if self._is_open and not self._prefetch // 2 < wanted <= self._prefetch:
            # RabbitMQ gives a new count to new consumers only.
            self._consumer.cancel()
            self._consume()

    def check_writes(self, keys: Keys) -> None:
        """Return if goals can be taken.

        Args:
            keys: names of the state's keys.

        Raises:
            redis.RedisError: if the broker is a Redis that does not answer, or takes no writes.
        """
        if hasattr(self._channel, "conn_or_acquire"):
            with self._channel.conn_or_acquire() as client:
                check_writes(client, keys)

    def give_back(self, messages: list[Any]) -> None:
        """Put messages back on the queue."""
        for message in messages:
            message.reject_log_error(logger, self._errors, requeue=True)

    def end(self) -> None:
        """Close the channel; what is held goes back to the queue."""
        with suppress(*self._errors):
            self._channel.close()

    def _consume(self) -> None:
        self._prefetch = self._lane.room().most_held
        self._channel.basic_qos(0, self._prefetch, False)
        self._consumer.consume()

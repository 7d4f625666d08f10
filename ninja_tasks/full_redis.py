"""kombu's transport for Redis, made patient with one that is full.

A full Redis refuses what kombu writes when it declares a queue, or renews a binding, though most
likely all of it is there already. With kombu's own transport that ends the worker, which could
drain it.

Publishing to a full Redis is an error, as it should be, but inside :func:`although_full`: after one
command that takes no memory, a full Redis lets a script write. That is right where as much memory
is freed at once, for a parked goal that goes back to a queue in the same Redis.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from queue import Empty
from typing import Any

from kombu import Connection
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from .redis_errors import is_refused, reason_of

__all__ = ["although_full", "patient"]

logger = logging.getLogger(__name__)

#: KEYS: any hash, list.  ARGV: message
_PUT = "redis.call('HDEL', KEYS[1], '') return redis.call('LPUSH', KEYS[2], ARGV[1])"

_ALTHOUGH_FULL: ContextVar[bool] = ContextVar("although_full", default=False)


@contextmanager
def although_full() -> Iterator[None]:
    """Let messages be published to a Redis that is full, by a patient connection."""
    before = _ALTHOUGH_FULL.set(True)
    try:
        yield
    finally:
        _ALTHOUGH_FULL.reset(before)


def patient(connection: Connection) -> Connection:
    """Return the same connection, which bears with a full Redis if it leads to one.

    Args:
        connection: one that has not connected yet.
    """
    transport = connection.get_transport_cls()
    is_redis = getattr(transport, "driver_type", None) == "redis"
    if is_redis and not issubclass(transport.Channel, _Patient):
        # Its attribute transport_cls is shown to people.
        connection.get_transport_cls = lambda: _patient_transport(transport)
    return connection


@cache
def _patient_transport(stock: type[Any]) -> type[Any]:
    qos = type("QoS", (_PatientQoS, stock.Channel.QoS), {})
    channel = type("Channel", (_Patient, stock.Channel), {"QoS": qos})
    return type("Transport", (stock,), {"Channel": channel})


class _PatientQoS:
    """What kombu's keeper of held messages does otherwise."""

    def restore_visible(self: Any, *positional: Any, **options: Any) -> Any:
        try:
            return super().restore_visible(*positional, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_refused(error):
                raise
            logger.debug("held messages were not looked at: %s", reason_of(error))
            return None


class _Patient:
    """What a channel of kombu's does otherwise."""

    def _queue_bind(self: Any, *positional: Any, **options: Any) -> None:
        try:
            super()._queue_bind(*positional, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_refused(error):
                raise
            logger.debug("a binding was not declared: %s", reason_of(error))

    def maybe_refresh_binding_expiry(self: Any) -> None:
        try:
            super().maybe_refresh_binding_expiry()  # type: ignore[misc]
        except ResponseError as error:
            logger.debug("a binding was not renewed: %s", reason_of(error))

    def _receive(self: Any) -> Any:
        # A health check of the connection may be refused too.
        try:
            return super()._receive()  # type: ignore[misc]
        except ResponseError as error:
            logger.debug("a broadcast was not read: %s", reason_of(error))
            raise Empty from None

    def _put(self: Any, queue: str, message: Any, **options: Any) -> None:
        if not _ALTHOUGH_FULL.get() or self.global_keyprefix:
            super()._put(queue, message, **options)  # type: ignore[misc]
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        words = (_PUT, 2, self.unacked_key, key, dumps(message))
        batch = options.get("_publish_batch")
        if batch is not None:
            batch.add("eval", *words)
            return
        with self.conn_or_acquire() as client:
            client.eval(*words)

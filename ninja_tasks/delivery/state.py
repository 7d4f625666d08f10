"""The Redis that holds state: how it is reached, how its keys are called, and how patiently it is
written to.

Nothing is acknowledged before its fate is stored, so a write that fails is repeated until it
succeeds, and the worker holds the message meanwhile. A worker that is ending gives it back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from ..config import Settings
from .stopping import is_stopping

__all__ = ["Keys", "connect", "until_stored"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SOCKET_TIMEOUT_SECONDS = 5.0
_CONNECT_TIMEOUT_SECONDS = 3.0
_PATIENCE_AT_THE_END_SECONDS = 3.0
_LOOK_SECONDS = 0.2
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys in Redis.

    Attributes:
        prefix: the setting ``key_prefix``.
    """

    prefix: str

    def page(self, delivery_id: str) -> str:
        """Return the key of a goal's page in the ledger."""
        return f"{self.prefix}l:{delivery_id}"

    def heartbeat(self, process: str) -> str:
        """Return the key that lives while a worker's process does."""
        return f"{self.prefix}w:{process}"

    def limiter(self, name: str) -> str:
        """Return the key of the time up to which the slots of a rate limit are taken."""
        return f"{self.prefix}limit:{name}"

    @property
    def gate(self) -> str:
        """Hash of the breaker's state, the hold and the pause."""
        return f"{self.prefix}gate"

    @property
    def parked(self) -> str:
        """Hash of parked goals as JSON, by delivery id."""
        return f"{self.prefix}parked"

    @property
    def parked_times(self) -> str:
        """Sorted set of the delivery ids of parked goals, by due time in milliseconds."""
        return f"{self.prefix}parked:due"

    @property
    def parked_since(self) -> str:
        """Sorted set of the same, by the time of enqueueing."""
        return f"{self.prefix}parked:since"

    @property
    def latencies(self) -> str:
        """Hash of attempts by the bucket of their duration."""
        return f"{self.prefix}latencies"

    @property
    def reports(self) -> str:
        """Hash of what Sentry was told, by class of dead letter."""
        return f"{self.prefix}reports"

    @property
    def counters(self) -> str:
        """Hash of counters since the beginning."""
        return f"{self.prefix}counters"

    @property
    def letters(self) -> str:
        """Hash of dead letters as JSON, by delivery id."""
        return f"{self.prefix}dead"

    @property
    def letter_times(self) -> str:
        """Sorted set of the delivery ids of dead letters, by the time of death."""
        return f"{self.prefix}dead:times"


def connect(settings: Settings) -> redis.Redis:
    """Return a client of the state's Redis; it connects when it is first used.

    It may be shared between threads, and its connections are not used across ``fork``.
    """
    over_tcp: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
    }
    client: redis.Redis = redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=_SOCKET_TIMEOUT_SECONDS,
        health_check_interval=30,
        decode_responses=True,
        # One document that is not UTF-8 must not end the reading of others.
        encoding_errors="surrogateescape",
        **({} if settings.redis_url.startswith("unix:") else over_tcp),
    )
    return client


def until_stored(write: Callable[[], T], delivery_id: str) -> T:
    """Repeat a write until Redis or the broker has taken it, and return what it returned.

    Args:
        write: must be safe to repeat, because a write whose answer was lost is repeated too.
        delivery_id: for the log.

    Raises:
        celery.exceptions.Reject: if the worker is ending and the write fails for three seconds
            more; the message goes back.
    """
    give_up_at = None
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except (redis.RedisError, OperationalError) as error:
            logger.warning(
                "holding goal %s until its fate is stored (%s); next try in %.1f s",
                delivery_id,
                type(error).__name__,
                pause_seconds,
            )
        over_at = time.monotonic() + pause_seconds
        while time.monotonic() < over_at:
            if is_stopping():
                give_up_at = give_up_at or time.monotonic() + _PATIENCE_AT_THE_END_SECONDS
                if time.monotonic() >= give_up_at:
                    raise Reject("the worker is ending", requeue=True)
                over_at = min(over_at, time.monotonic() + _LOOK_SECONDS)
            time.sleep(min(_LOOK_SECONDS, pause_seconds))
        pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

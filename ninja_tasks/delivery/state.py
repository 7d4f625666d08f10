"""The Redis that holds state: how it is reached, how its keys are called, and how patiently it is
written to.

Nothing is acknowledged before its fate is stored, so a write that fails is repeated, and the worker
holds the message meanwhile, for some seconds. Then it gives the message back, so that no thread
waits for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import redis
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..config import Settings
from ..redis_errors import can_pass, dropping, reason_of
from .stopping import is_stopping

__all__ = [
    "Keys",
    "check_writes",
    "connect",
    "shared_client",
    "until_stored",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SOCKET_TIMEOUT_SECONDS = 5.0
_CONNECT_TIMEOUT_SECONDS = 3.0
#: Of one client. A thread that finds all of them busy waits for one.
_MOST_CONNECTIONS = 8
#: How long a thread waits for Redis to take a write. Then the goal's message goes back.
_PATIENCE_SECONDS = 5.0
_PATIENCE_AT_THE_END_SECONDS = 3.0
_LOOK_SECONDS = 0.2
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_CONNECTION_CLASSES: dict[str, type[Any]] = {
    "rediss": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}


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

    @property
    def limit(self) -> str:
        """Hash of the limit in force, and the time up to which its slots are taken."""
        return f"{self.prefix}limit"

    @property
    def limited_workers(self) -> str:
        """Sorted set of the workers that share the limit, by the time of their last question."""
        return f"{self.prefix}limit:workers"

    @property
    def room(self) -> str:
        """Short-lived key by which a worker sees whether Redis has memory."""
        return f"{self.prefix}room"

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


def connect(settings: Settings, *, retries: int = 1) -> redis.Redis:
    """Return a client of the state's Redis; it connects when it is first used.

    It may be shared between threads, and its connections are not used across ``fork``. A connection
    that was closed, or that leads to a server which is not the right one any more, is opened anew,
    and the question asked once more: every command must be safe to repeat.

    Args:
        settings: ``redis_url`` is used.
        retries: how often a question is asked anew after a lost connection.
    """
    scheme = settings.redis_url.partition("://")[0]
    over_tcp: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
    }
    pool = redis.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=_MOST_CONNECTIONS,
        timeout=_SOCKET_TIMEOUT_SECONDS,
        connection_class=dropping(_CONNECTION_CLASSES.get(scheme, redis.Connection)),
        socket_timeout=_SOCKET_TIMEOUT_SECONDS,
        health_check_interval=30,
        decode_responses=True,
        # One document that is not UTF-8 must not end the reading of others.
        encoding_errors="surrogateescape",
        retry=Retry(NoBackoff(), retries, (redis.ConnectionError,)),
        **({} if scheme == "unix" else over_tcp),
    )
    client = redis.Redis(connection_pool=pool)
    # Nobody else has the pool, so it is closed with the client.
    client.auto_close_connection_pool = True
    return client


@cache
def shared_client(settings: Settings) -> redis.Redis:
    """Return the client of the state's Redis that all of this process use."""
    return connect(settings)


def check_writes(client: Any, keys: Keys, *, if_full: bool = True) -> None:
    """Return if Redis takes writes now.

    Args:
        client: of any Redis.
        keys: names of the state's keys.
        if_full: whether one without memory will do, which takes a write that frees some.

    Raises:
        redis.RedisError: if it does not.
    """
    client.hdel(keys.gate, "")
    if not if_full:
        client.set(keys.room, "1", px=1000)


def until_stored(
    write: Callable[[], T],
    delivery_id: str,
    *,
    on_giving_up: Callable[[], object] = bool,
) -> T:
    """Repeat a write until Redis or the broker has taken it, and return what it returned.

    Args:
        write: must be safe to repeat, because a write whose answer was lost is repeated too.
        delivery_id: for the log.
        on_giving_up: is called before the message goes back.

    Raises:
        celery.exceptions.Reject: if the write fails for five seconds, or for three after the worker
            was told to end; the message goes back.
        redis.RedisError: if the write fails in a way that cannot pass.
    """
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except (redis.RedisError, OperationalError) as error:
            if not can_pass(error):
                raise
            reason = reason_of(error)
        _say_held(delivery_id, reason, pause_seconds)
        over_at = time.monotonic() + pause_seconds
        while (now := time.monotonic()) < over_at or now >= give_up_at:
            if is_stopping():
                give_up_at = min(give_up_at, now + _PATIENCE_AT_THE_END_SECONDS)
            if now >= give_up_at:
                logger.warning("giving goal %s back: its fate was not stored", delivery_id)
                on_giving_up()
                raise Reject(f"its fate was not stored ({reason})", requeue=True)
            time.sleep(min(_LOOK_SECONDS, over_at - now, give_up_at - now))
        pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)


def _say_held(delivery_id: str, reason: str, pause_seconds: float) -> None:
    logger.warning(
        "holding goal %s until its fate is stored (%s); next try in %.1f s",
        delivery_id,
        reason,
        pause_seconds,
    )

"""A client of the broker's Redis for the goals alone, by the address that kombu connected to.

kombu knows how to make a connection of an address: TLS, Sentinel, a Unix socket, credentials, a
prefix. A channel of it that has no queues is nothing but that.
"""

from __future__ import annotations

from typing import Any

import redis

from ..redis_errors import dropping
from .held import HeldGoals

__all__ = ["held_goals_of"]

#: Bounds of the goals' own connections, unless the application sets others.
_BOUNDS = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 3.0,
    "socket_keepalive": True,
    "health_check_interval": 30,
}


def held_goals_of(connection: Any, queue: str) -> HeldGoals:
    """Return the goals in the Redis of a worker's connection; they outlive that connection.

    Args:
        connection: kombu's, which is connected.
        queue: the goal queue's name.

    Raises:
        redis.RedisError: if Redis does not answer.
    """
    transport = connection.transport
    channel = _channel_class(transport)(transport)
    # Its poller reads from channels that have queues.
    transport.cycle.discard(channel)
    client = redis.Redis(connection_pool=channel.pool)
    # kombu's channel closes its connections when it is forgotten.
    client.kept_alive_by = channel  # type: ignore[attr-defined]
    return HeldGoals(
        client,
        queue,
        prefix=channel.global_keyprefix,
        separator=channel.sep,
        priorities=channel.priority_steps,
    )


def _channel_class(transport: Any) -> type[Any]:
    stock: Any = transport.Channel

    class Channel(stock):  # type: ignore[misc]
        def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
            parameters: dict[str, Any] = super()._connparams(asynchronous)
            parameters["connection_class"] = dropping(parameters["connection_class"])
            return parameters

    given = transport.client.transport_options or {}
    for name, bound in _BOUNDS.items():
        setattr(Channel, name, given.get(name, bound))
    return Channel

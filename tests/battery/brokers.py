"""The two brokers of the battery, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

import redis
from amqp.exceptions import NotFound
from kombu import Connection
from rabbitmq_node import Node

from ninja_tasks.testing import embedded_server

__all__ = ["Broker", "rabbitmq_broker", "redis_broker"]

_hosts = count()


class Broker(Protocol):
    """A broker of one shop.

    Attributes:
        url: its address.
    """

    url: str

    def waiting(self, queue: str) -> int:
        """Return how many messages no worker has taken."""

    def is_empty(self) -> bool:
        """Tell whether there is no message, neither waiting nor held by a worker."""

    def connections(self) -> int:
        """Return how many connections workers and clients have."""

    def asked(self) -> int:
        """Return a counter of what was asked of it: commands, or packets of AMQP."""


class _RedisBroker:
    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url, decode_responses=True)

    def close(self) -> None:
        self._client.close()

    def waiting(self, queue: str) -> int:
        # Kombu has a list for each priority.
        lists = [queue, *self._client.scan_iter(f"{queue}\x06\x16*", 1000)]
        return sum(self._client.llen(name) for name in lists)

    def is_empty(self) -> bool:
        names = [
            name
            for name in self._client.scan_iter("*", 1000)
            if "pidbox" not in name and not name.startswith("ninja:")
        ]
        return not any("unacked" in one or self._client.type(one) == "list" for one in names)

    def connections(self) -> int:
        return len(self._client.client_list()) - 1

    def asked(self) -> int:
        own = ("info", "client|list", "llen", "scan", "type")
        stats = self._client.info("commandstats")
        return sum(
            one["calls"] for name, one in stats.items() if name.removeprefix("cmdstat_") not in own
        )


class _RabbitMQBroker:
    def __init__(self, node: Node, host: str) -> None:
        self._node = node
        self._host = host
        self.url = f"{node.url.removesuffix('//')}/{host}"

    def waiting(self, queue: str) -> int:
        with Connection(self.url) as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except NotFound:
                return 0

    def is_empty(self) -> bool:
        rows = self._node.run("rabbitmqctl", "list_queues", "-p", self._host, "messages")
        return not any(int(row) for row in rows.split() if row.isdigit())

    def connections(self) -> int:
        return len(self._rows())

    def asked(self) -> int:
        return sum(int(row[1]) for row in self._rows())

    def _rows(self) -> list[list[str]]:
        output = self._node.run("rabbitmqctl", "list_connections", "vhost", "recv_cnt")
        rows = [line.split() for line in output.splitlines()]
        return [row for row in rows if row and row[0] == self._host]


@contextmanager
def redis_broker() -> Iterator[Broker]:
    with embedded_server() as server:
        broker = _RedisBroker(server.url)
        try:
            yield broker
        finally:
            broker.close()


@contextmanager
def rabbitmq_broker(node: Node) -> Iterator[Broker]:
    """Make a virtual host of its own, so that shops of one node do not meet."""
    host = f"shop{next(_hosts)}"
    # One program instead of two: each takes a second to start.
    node.run(
        "rabbitmqctl",
        "eval",
        f'rabbit_vhost:add(<<"{host}">>, <<"battery">>), rabbit_auth_backend_internal:'
        f'set_permissions(<<"guest">>, <<"{host}">>, <<".*">>, <<".*">>, <<".*">>, <<"battery">>).',
    )
    yield _RabbitMQBroker(node, host)

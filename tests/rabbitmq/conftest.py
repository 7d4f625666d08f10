"""One RabbitMQ node for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rabbitmq_node import Node, is_installed
from rabbitmq_node import rabbitmq_node as running_node


@pytest.fixture(scope="session")
def rabbitmq(rabbitmq_node: Node) -> str:
    return rabbitmq_node.url


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if not is_installed():
        pytest.fail("RabbitMQ is needed: apt-get install rabbitmq-server")
    with running_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node

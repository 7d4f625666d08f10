"""A RabbitMQ cluster of three nodes for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rabbitmq_node import Cluster, is_installed, rabbitmq_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not is_installed():
        pytest.fail("RabbitMQ is needed: apt-get install rabbitmq-server")
    with rabbitmq_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running

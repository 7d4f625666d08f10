"""A RabbitMQ node of its own on free ports, with its own name server, so that nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection
from stack import free_port, wait_until

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    epmd = shutil.which("epmd")
    if epmd is None or not SERVER.exists():
        pytest.fail("RabbitMQ is needed: apt-get install rabbitmq-server")
    directory = tmp_path_factory.mktemp("rabbitmq")
    port, names_port = free_port(), free_port()
    environment = {
        **os.environ,
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_NODENAME": f"test-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
    }
    url = f"amqp://guest:guest@127.0.0.1:{port}//"
    names = subprocess.Popen([epmd], env=environment, stderr=subprocess.DEVNULL)
    with (directory / "output").open("wb") as output:
        node = subprocess.Popen(
            [SERVER], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(lambda: _answers(url, node, directory), "RabbitMQ to start", _START_SECONDS)
        yield url
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(_STOP_SECONDS)
        names.terminate()
        names.wait(_STOP_SECONDS)


def _answers(url: str, node: subprocess.Popen[bytes], directory: Path) -> bool:
    assert node.poll() is None, (directory / "output").read_text(errors="replace")
    try:
        with Connection(url, connect_timeout=2) as connection:
            connection.connect()
    except OSError:
        return False
    return True

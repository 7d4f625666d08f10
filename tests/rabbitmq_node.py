"""A RabbitMQ node of its own on free ports, with its own name server, so that nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kombu import Connection
from stack import free_port, wait_until

__all__ = ["Node", "is_installed", "rabbitmq_node"]

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class Node:
    """A RabbitMQ node that can be stopped and started again with what it has on its disk."""

    def __init__(self, url: str, environment: dict[str, str], directory: Path) -> None:
        self.url = url
        self._environment = environment
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [_SERVER],
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._answers, "RabbitMQ to start", _START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        log = (self._directory / "output").read_text(errors="replace")
        assert self._process.poll() is None, log
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except OSError:
            return False
        return True


def is_installed() -> bool:
    """Tell whether Debian's ``rabbitmq-server`` is here."""
    return _SERVER.exists() and shutil.which("epmd") is not None


@contextmanager
def rabbitmq_node(directory: Path) -> Iterator[Node]:
    """Run a node that keeps everything in a directory."""
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
    names = subprocess.Popen(["epmd"], env=environment, stderr=subprocess.DEVNULL)
    node = Node(url, environment, directory)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        names.terminate()
        names.wait(_STOP_SECONDS)

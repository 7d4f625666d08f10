"""RabbitMQ nodes on free ports, alone or as a cluster, with a name server of their own, so that
nothing is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kombu import Connection
from stack import free_port, wait_until

__all__ = ["Cluster", "Node", "is_installed", "rabbitmq_cluster", "rabbitmq_node"]

_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_FORMATION = "cluster_formation.peer_discovery_backend = classic_config\n"


class Node:
    """A RabbitMQ node that can be stopped and started again with what it has on its disk."""

    def __init__(self, url: str, environment: dict[str, str], directory: Path) -> None:
        self.url = url
        self._environment = environment
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self._environment["RABBITMQ_NODENAME"]

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, and do not wait until it answers."""
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [_PROGRAMS / "rabbitmq-server"],
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        wait_until(self._answers, "RabbitMQ to start", _START_SECONDS)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self.signal(number)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    def run(self, *command: str) -> str:
        """Run one of RabbitMQ's own programs against the node, and return what it writes."""
        program, *arguments = command
        done = subprocess.run(
            [_PROGRAMS / program, "--quiet", "-n", self.name, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

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


class Cluster:
    """Several nodes that share their queues."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """All addresses, the way Celery takes them."""
        return ";".join(node.url for node in self.nodes)

    def leader_of(self, queue: str) -> Node:
        """Return the node that leads a quorum queue."""
        rows = self.nodes[0].run("rabbitmqctl", "list_queues", "name", "leader").splitlines()
        (leader,) = [words[1] for row in rows if (words := row.split())[0] == queue]
        return next(node for node in self.nodes if node.name == leader)


def is_installed() -> bool:
    """Tell whether Debian's ``rabbitmq-server`` is here."""
    return (_PROGRAMS / "rabbitmq-server").exists() and shutil.which("epmd") is not None


@contextmanager
def rabbitmq_node(directory: Path) -> Iterator[Node]:
    """Run a node that keeps everything in a directory."""
    with _name_server(directory) as environment:
        node = _node(directory, environment)
        try:
            node.start()
            yield node
        finally:
            node.stop()


@contextmanager
def rabbitmq_cluster(directory: Path, size: int = 3) -> Iterator[Cluster]:
    """Run nodes that find each other, and keep everything in a directory."""
    with _name_server(directory) as environment, ExitStack() as stack:
        nodes = []
        for number in range(size):
            place = directory / str(number)
            place.mkdir()
            nodes.append(_node(place, environment | {"RABBITMQ_CONFIG_FILE": f"{directory}/all"}))
        members = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {node.name}\n"
            for number, node in enumerate(nodes, start=1)
        )
        Path(directory, "all.conf").write_text(_FORMATION + members)
        for node in nodes:
            stack.callback(node.kill)
            node.launch()
        for node in nodes:
            node.wait_until_ready()
        yield Cluster(nodes)


@contextmanager
def _name_server(directory: Path) -> Iterator[dict[str, str]]:
    """Run a name server, and yield the environment of the nodes that use it."""
    environment = {
        **os.environ,
        # The nodes of a cluster know each other by the cookie in it.
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
    }
    Path(directory, ".erlang.cookie").write_text("made-up-for-the-tests")
    Path(directory, ".erlang.cookie").chmod(0o400)
    names = subprocess.Popen(["epmd"], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield environment
    finally:
        names.terminate()
        names.wait(_STOP_SECONDS)


def _node(directory: Path, environment: dict[str, str]) -> Node:
    port = free_port()
    own = {
        "RABBITMQ_NODENAME": f"test-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        # The nodes talk to each other over the loopback interface only, too.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
    }
    return Node(f"amqp://guest:guest@127.0.0.1:{port}//", environment | own, directory)

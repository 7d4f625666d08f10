"""How long a thread waits for Redis, and what is written after it has given its message back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import redis
from celery.exceptions import Reject
from redis.exceptions import DataError, OutOfMemoryError
from stack import wait_until

from ninja_tasks.config import load_settings
from ninja_tasks.delivery import state, stopping
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.state import connect, until_stored
from ninja_tasks.delivery.unstored import Unstored
from ninja_tasks.testing import EmbeddedServer, embedded_server


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 0.3)


def refuse() -> None:
    raise OutOfMemoryError("command not allowed")


@pytest.mark.usefixtures("short_patience")
def test_a_thread_that_waited_long_enough_gives_the_message_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given_up = threading.Event()
    with pytest.raises(Reject) as caught:
        until_stored(refuse, "one", on_giving_up=given_up.set)
    assert caught.value.requeue
    assert given_up.is_set()
    assert "holding goal one until its fate is stored (OOM command not allowed)" in caplog.text
    assert "giving goal one back" in caplog.text


def test_a_worker_that_ends_gives_the_message_back_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_FLAG", b"\x01")
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(state, "_PATIENCE_AT_THE_END_SECONDS", 0.2)
    with pytest.raises(Reject):
        until_stored(refuse, "one")


def test_what_cannot_pass_is_not_repeated() -> None:
    tries = []

    def write() -> None:
        tries.append(1)
        raise DataError("Invalid input of type: 'bool'.")

    with pytest.raises(DataError):
        until_stored(write, "one")
    assert len(tries) == 1


def test_what_is_not_stored_is_written_as_soon_as_redis_takes_it(server: EmbeddedServer) -> None:
    unstored = Unstored()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.config_set("maxmemory", 1)
        unstored.keep(lambda: client.set("a", "1"))
        unstored.keep(lambda: client.hset("broken", mapping={"x": True}))  # type: ignore[dict-item]
        unstored.keep(lambda: client.set("b", "2"))
        assert client.get("a") is None
        client.config_set("maxmemory", 0)
        wait_until(lambda: client.mget("a", "b") == ["1", "2"], "both to be written")
        unstored.keep(lambda: client.set("c", "3"))
        wait_until(lambda: client.get("c") == "3", "a later one")


def test_a_redis_that_stands_still_keeps_no_thread_longer_than_its_patience(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_SOCKET_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 0.2)
    settings = load_settings({}, {}, server.url)
    client = connect(settings)
    gate = Gate(settings, client)
    gate.unclaim("one", "token")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Reject):
            until_stored(lambda: gate.unclaim("one", "token"), "one")
    finally:
        os.kill(server.pid, signal.SIGCONT)

"""The HTTP client on real sockets: when an exchange ends, and which connections are reused."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dropping_proxy import ForgetfulProxy
from odd_server import server, trickling
from stack import free_port
from tls import TlsProxy

from ninja_tasks.config import Settings, load_settings
from ninja_tasks.delivery import connection
from ninja_tasks.delivery.client import SalesNinja
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.testing import FakeSalesNinja

BODY = {
    "GoalId": "299837db-9b51-45a4-996b-844d3fd05bbd",
    "CustomerId": "2eccd743-4164-4892-a416-dc5c16f44971",
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


def settings(url: str, **values: Any) -> Settings:
    values = {"connect_timeout_seconds": 0.5, "read_timeout_seconds": 0.5} | values
    named = {f"ninja_{name}": value for name, value in values.items()}
    return load_settings({"ninja_api_url": url, **named}, os.environ, "redis://localhost")


def post(url: str, **values: Any) -> Attempt:
    return SalesNinja(settings(url, **values)).post(BODY, "one")


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let the slack of an exchange be short."""
    monkeypatch.setattr(connection, "_SLACK_SECONDS", 0.5)
    return 0.5


# The end of an exchange


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"", b"H", id="status line"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n", id="1xx"),
    ],
)
def test_an_answer_that_trickles_before_its_status_is_unknown_when_the_time_is_over(
    start: bytes, drop: bytes, slack: float
) -> None:
    with server(trickling(start, drop)) as url:
        began = time.monotonic()
        attempt = post(url)
        seconds = time.monotonic() - began
    assert (attempt.outcome, attempt.error) == (Outcome.UNKNOWN, "ReadTimeout")
    assert 1.4 < seconds < 5


@pytest.mark.parametrize(("status", "outcome"), [(200, "delivered"), (400, "rejected")])
def test_a_status_whose_headers_trickle_settles_the_goal_when_the_time_is_over(
    status: int, outcome: str, slack: float
) -> None:
    with server(trickling(b"HTTP/1.1 %d Said\r\nX-A: " % status, b"a")) as url:
        attempt = post(url)
    assert (attempt.outcome, attempt.status) == (outcome, status)


@pytest.mark.parametrize(
    ("status", "framing", "drop"),
    [
        (200, b"Content-Length: 2048", b"a"),
        (200, b"Transfer-Encoding: chunked", b"1\r\na\r\n"),
        (503, b"Content-Length: 2048", b"a"),
    ],
)
def test_a_body_that_trickles_does_not_delay_what_its_status_says(
    status: int, framing: bytes, drop: bytes
) -> None:
    head = b"HTTP/1.1 %d Said\r\n%b\r\nRetry-After: 7\r\n\r\n" % (status, framing)
    with server(trickling(head, drop)) as url:
        began = time.monotonic()
        attempt = post(url, read_timeout_seconds=27)
        seconds = time.monotonic() - began
    assert attempt.status == status
    assert attempt.excerpt.strip("a") == ""
    assert 1 <= len(attempt.excerpt) <= 30
    assert seconds < 5


def test_an_answer_that_trickles_through_tls_is_bounded_too(
    certificate: Path, slack: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        server(trickling(b"HTTP/1.1 200 OK\r\nX-A: ", b"a")) as url,
        TlsProxy(int(url.rpartition(":")[2]), certificate) as proxy,
    ):
        began = time.monotonic()
        attempt = post(f"https://127.0.0.1:{proxy.port}", trust_env=True)
    assert attempt.outcome is Outcome.DELIVERED
    assert time.monotonic() - began < 5


def test_a_proxy_whose_answer_trickles_did_not_send_the_goal(
    slack: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(trickling(b"HTTP/1.1 200 OK\r\nX-A: ", b"a")) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        began = time.monotonic()
        attempt = post("https://api.example", trust_env=True)
    assert attempt.outcome is Outcome.NOT_SENT
    assert time.monotonic() - began < 5


def test_a_name_that_is_looked_up_for_too_long_is_not_sent_and_looked_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up, asked, over = socket.getaddrinfo, [], threading.Event()

    def slow(host: str, *arguments: Any, **options: Any) -> Any:
        if options.get("flags"):
            return look_up(host, *arguments, **options)
        asked.append(host)
        over.wait(20)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    api = SalesNinja(settings("http://api.example"))
    began = time.monotonic()
    attempts = [api.post(BODY, "one") for _ in range(3)]
    seconds = time.monotonic() - began
    over.set()
    assert {(one.outcome, one.error) for one in attempts} == {(Outcome.NOT_SENT, "ConnectTimeout")}
    assert asked == ["api.example"]
    assert seconds < 5


def test_a_name_with_many_dead_addresses_is_given_up_and_one_with_a_living_one_is_not(
    monkeypatch: pytest.MonkeyPatch, slack: float
) -> None:
    look_up = socket.getaddrinfo
    with FakeSalesNinja() as api, full_listener() as dead:
        answers = {
            "dead.example": [("127.0.0.1", dead)] * 20,
            "half.example": [("127.0.0.1", dead), ("127.0.0.1", api.port)],
        }

        def several(host: str, *arguments: Any, **options: Any) -> Any:
            if host not in answers or options.get("flags"):
                return look_up(host, *arguments, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in answers[host]]

        monkeypatch.setattr(socket, "getaddrinfo", several)
        began = time.monotonic()
        attempt = post("http://dead.example")
        assert (attempt.outcome, attempt.error) == (Outcome.NOT_SENT, "ConnectTimeout")
        assert time.monotonic() - began < 4
        assert post("http://half.example").outcome is Outcome.DELIVERED


@contextmanager
def full_listener() -> Iterator[int]:
    """Listen, but let nobody in."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


# What goes wrong before a byte is written


def test_what_cannot_even_be_prepared_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    api = SalesNinja(settings("https://api.example", trust_env=True))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    api.prepare()
    attempt = api.post(BODY, "one")
    assert (attempt.outcome, attempt.error) == (Outcome.NOT_SENT, "OSError")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert api.post(BODY, "one").error != "OSError"


# Reuse


def test_a_connection_is_used_again_at_once_and_shared_by_threads() -> None:
    with FakeSalesNinja() as api, ForgetfulProxy(api.port, 60) as proxy:
        client = SalesNinja(settings(f"http://127.0.0.1:{proxy.port}"))
        for _ in range(3):
            thread = threading.Thread(target=client.post, args=(BODY, "one"))
            thread.start()
            thread.join()
        assert proxy.opened == 1
        assert len(api.delivered) == 3


@pytest.mark.parametrize("resets", [False, True], ids=["swallows", "resets"])
def test_a_connection_that_was_idle_is_not_used_again(resets: bool) -> None:
    with FakeSalesNinja() as api, ForgetfulProxy(api.port, 2, resets=resets) as proxy:
        client = SalesNinja(settings(f"http://127.0.0.1:{proxy.port}"))
        assert client.post(BODY, "one").outcome is Outcome.DELIVERED
        time.sleep(2.2)
        assert client.post(BODY, "two").outcome is Outcome.DELIVERED
        assert (proxy.opened, proxy.misses) == (2, 0)


def test_a_server_that_keeps_connections_for_a_second_gets_no_request_on_an_old_one() -> None:
    opened = []

    def handle(peer: socket.socket) -> None:
        opened.append(peer.getpeername())
        peer.sendall(HEAD + b"Keep-Alive: timeout=1, max=100\r\n\r\n")

    with server(handle) as url:
        client = SalesNinja(settings(url))
        for pause in (0, 0.7):
            time.sleep(pause)
            assert client.post(BODY, "one").outcome is Outcome.DELIVERED
        assert client.post(BODY, "one").outcome is Outcome.DELIVERED
    assert len(opened) == 3
    assert len(set(opened)) == 2


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    closed = threading.Event()

    def handle(peer: socket.socket) -> None:
        peer.sendall(HEAD + b"\r\n")
        peer.shutdown(socket.SHUT_RDWR)
        closed.set()

    with server(handle) as url:
        client = SalesNinja(settings(url))
        for _ in range(2):
            closed.clear()
            assert client.post(BODY, "one").outcome is Outcome.DELIVERED
            assert closed.wait(5)
            time.sleep(0.05)


def test_a_refused_connection_is_not_sent() -> None:
    attempt = post(f"http://127.0.0.1:{free_port()}")
    assert (attempt.outcome, attempt.error) == (Outcome.NOT_SENT, "ConnectionRefusedError")


def test_certificates_are_verified_and_read_once(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeSalesNinja() as api, TlsProxy(api.port, certificate) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        refused = post(url)
        assert (refused.outcome, refused.error) == (Outcome.NOT_SENT, "SSLError")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        client = SalesNinja(settings(url, trust_env=True))
        assert client.post(BODY, "one").outcome is Outcome.DELIVERED
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        time.sleep(1.1)
        assert client.post(BODY, "two").outcome is Outcome.DELIVERED

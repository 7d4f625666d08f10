"""Connections to the API whose exchanges come to an end, and that are not reused when they are old.

The timeouts of ``requests`` bound each wait, not their number: an answer that trickles byte by byte
would keep a thread for hours. Here each wait of a socket ends with the exchange, and so does the
lookup of a name and the search through its addresses.

A connection that nobody used for a while may be forgotten by a router between here and there, or
about to be closed by the server. A request on it would be lost after it was written, and nobody
could say whether it was counted. So only a connection that was used a moment ago is used again.
"""

from __future__ import annotations

import io
import math
import re
import socket
import threading
from concurrent.futures import Future
from time import monotonic
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family, create_connection
from urllib3.util.ssl_ import create_urllib3_context

from ..config import Settings
from .answer import Answer

__all__ = ["Exchange", "bind", "longest_exchange_seconds"]

#: Servers close a connection that is idle for two seconds (gunicorn), five (Node, Apache, uvicorn)
#: or more; routers forget one after minutes. Half of the shortest leaves room for the way.
_LONGEST_IDLE_SECONDS = 1.0
#: What the whole may take beyond the two timeouts, for names with several addresses and for TLS.
_SLACK_SECONDS = 5.0

_SERVERS_PATIENCE = re.compile(r"\btimeout=([0-9]{1,9})\b")


def longest_exchange_seconds(settings: Settings) -> float:
    """Return how long a request to the API may take, with all that it takes to connect."""
    timeouts = settings.connect_timeout_seconds + settings.read_timeout_seconds
    return timeouts + _SLACK_SECONDS


class Exchange(threading.local):
    """The exchange that a thread is in: a request, its answer, and what it takes to connect.

    Args:
        connect_seconds: longest wait for one step of connecting.
        read_seconds: longest silence of the API.
    """

    connects_by = ends_by = math.inf

    def __init__(self, connect_seconds: float, read_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds

    def begin(self) -> None:
        """Let it begin now."""
        self.connects_by = monotonic() + self._connect_seconds + _SLACK_SECONDS
        self.ends_by = self.connects_by + self._read_seconds

    def end_within(self, seconds: float) -> None:
        """Let it end within so many seconds, or sooner if it would."""
        self.ends_by = min(self.ends_by, monotonic() + seconds)

    def seconds_to_connect(self) -> float:
        """Return the longest wait for the next step of connecting."""
        return min(self._connect_seconds, _left_until(self.connects_by))

    def seconds_to_wait(self, longest: float | None) -> float:
        """Return the longest wait for the other side, at most so long."""
        left = _left_until(self.ends_by)
        return left if longest is None else min(longest, left)


def _left_until(moment: float) -> float:
    left = moment - monotonic()
    if left <= 0:
        raise TimeoutError("the exchange took too long")
    return left


def bind(pool: Any, exchange: Exchange) -> None:
    """Make a pool's future connections end with the exchange, and load its certificates once.

    Args:
        pool: a connection pool of ``urllib3`` that knows its certificates.
        exchange: of whichever thread uses a connection.
    """
    kind = pool.ConnectionCls
    dials_itself = kind._new_conn is HTTPConnection._new_conn
    bases = (_Bounded, _Dialling, kind) if dials_itself else (_Bounded, kind)
    pool.ConnectionCls = type("Connection", bases, {"exchange": exchange, "names": _Names()})
    # A proxy that speaks TLS needs the files for a context of its own. Without files the pool has a
    # context, which some versions of requests load once for the whole process.
    has_files = pool.scheme == "https" and (pool.ca_certs or pool.ca_cert_dir)
    if has_files and not (pool.proxy and pool.proxy.scheme == "https"):
        context = create_urllib3_context()
        context.load_verify_locations(pool.ca_certs, pool.ca_cert_dir)
        pool.conn_kw["ssl_context"] = context
        pool.ca_certs = pool.ca_cert_dir = None


class _Bounded:
    """What is done to a connection of ``urllib3``, of whichever kind."""

    response_class = Answer
    exchange: Exchange
    sock: Any
    _longest_idle_seconds = _LONGEST_IDLE_SECONDS
    _kept: bytes | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a request can be sent on it: it is open, and was used a moment ago."""
        return (
            self.sock is not None
            and monotonic() - self.sock.used_at < self._longest_idle_seconds
            and bool(super().is_connected)  # type: ignore[misc]
        )

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _BoundedSocket(self.sock, self.exchange)

    def _tunnel(self) -> None:
        """Ask a proxy for a tunnel; TLS needs the plain socket afterwards."""
        plain = self.sock
        self.sock = _BoundedSocket(plain, self.exchange)
        super()._tunnel()  # type: ignore[misc]
        self.sock = plain

    def endheaders(self, *arguments: Any, **options: Any) -> None:
        """Keep the headers until the body is there: one write costs less than two."""
        if self.sock is None:
            self.connect()
        self._kept = b""
        super().endheaders(*arguments, **options)  # type: ignore[misc]

    def send(self, data: bytes) -> None:
        """Send a part of a request, or keep it if it is the headers."""
        if self._kept == b"":
            self._kept = data
            return
        together = data if self._kept is None else self._kept + data
        self._kept = None
        super().send(together)  # type: ignore[misc]

    def close(self) -> None:
        self._kept = None
        super().close()  # type: ignore[misc]

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]
        if "Keep-Alive" in response.headers:
            said = _SERVERS_PATIENCE.search(response.headers["Keep-Alive"])
            if said:
                self._longest_idle_seconds = min(_LONGEST_IDLE_SECONDS, int(said[1]) / 2)
        return response


class _Dialling:
    """A connection that is opened without a proxy that has a protocol of its own."""

    exchange: Exchange
    names: _Names

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        exchange = self.exchange
        error: OSError = OSError("the name has no address")
        try:
            addresses = self.names.look_up(
                connection._dns_host.strip("[]"), connection.port, exchange.seconds_to_connect()
            )
            for address in addresses:
                try:
                    opened = create_connection(
                        address,
                        exchange.seconds_to_connect(),
                        connection.source_address,
                        connection.socket_options,
                    )
                    # What follows, such as TLS, is a step of its own.
                    opened.settimeout(exchange.seconds_to_connect())
                    return opened
                except OSError as this:
                    error = this
            raise error
        except socket.gaierror as this:
            raise NameResolutionError(connection.host, connection, this) from this
        except TimeoutError as this:
            raise ConnectTimeoutError(connection, "connecting timed out") from this
        except OSError as this:
            raise NewConnectionError(connection, f"connecting failed: {this}") from this


class _Names:
    """Looks names up, without waiting for longer than it may.

    The system's lookup cannot be told to end. So it has a thread to itself, and whoever wants the
    same name meanwhile waits for the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], Future[list[tuple[str, int]]]] = {}

    def look_up(self, host: str, port: int, seconds: float) -> list[tuple[str, int]]:
        """Return the addresses of a host.

        Raises:
            socket.gaierror: if it has none.
            TimeoutError: if the answer takes too long.
        """
        try:
            return _addresses(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        wanted = host, port
        with self._lock:
            found = self._under_way.get(wanted)
            if found is None:
                found = self._under_way[wanted] = Future()
                threading.Thread(target=self._run, args=(wanted, found), daemon=True).start()
        return found.result(seconds)

    def _run(self, wanted: tuple[str, int], found: Future[list[tuple[str, int]]]) -> None:
        try:
            found.set_result(_addresses(*wanted))
        except Exception as error:  # noqa: BLE001 (it is raised where the result is wanted)
            found.set_exception(error)
        finally:
            with self._lock:
                del self._under_way[wanted]


def _addresses(host: str, port: int, flags: int = 0) -> list[tuple[str, int]]:
    found = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM, flags=flags)
    return [(str(where[0]), int(where[1])) for *_kind, where in found]


class _BoundedSocket:
    """A socket whose waits end with the exchange.

    Attributes:
        used_at: when bytes came or went last.
    """

    def __init__(self, plain: Any, exchange: Exchange) -> None:
        self._plain = plain
        self._exchange = exchange
        self._is = self._longest = plain.gettimeout()
        self.used_at = monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def settimeout(self, seconds: float | None) -> None:
        self._longest = seconds

    def sendall(self, data: Any) -> None:
        self.limit()
        self._plain.sendall(data)
        self.used_at = monotonic()

    def makefile(self, mode: str, *_options: Any) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self, self._plain.makefile(mode, 0)))

    def limit(self) -> None:
        """Let the next wait end with the exchange."""
        wanted = self._exchange.seconds_to_wait(self._longest)
        if wanted != self._is:
            self._plain.settimeout(wanted)
            self._is = wanted


class _BoundedReader(io.RawIOBase):
    """Reads from a socket whose waits end with the exchange."""

    def __init__(self, bounded: _BoundedSocket, plain: Any) -> None:
        self._bounded = bounded
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._bounded.limit()
        count: int | None = self._plain.readinto(buffer)
        self._bounded.used_at = monotonic()
        return count

    def close(self) -> None:
        self._plain.close()
        super().close()

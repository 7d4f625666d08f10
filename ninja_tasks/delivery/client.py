"""The HTTP client: one goal, one POST, one :class:`Attempt`.

``requests`` with one pool of connections for each process, both timeouts and a bound of the whole
exchange, no redirects, TLS verified. Whatever happens is an attempt, and what went wrong before the
request was written is one that was not sent.

All requests go to one address with the same options, so what ``requests`` would work out for each
(proxies, certificates, the pool of connections) is worked out once. Cookies are not kept.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from ..config import API_PATH, Settings
from .connection import Exchange, bind
from .outcomes import Attempt, outcome_of_failure, outcome_of_status, retry_after_seconds

__all__ = ["MAX_EXCERPT_BYTES", "USER_AGENT", "SalesNinja"]

#: How much of an answer's body is read.
MAX_EXCERPT_BYTES = 2048
#: How long its body may take: the status has said what came of the goal.
_EXCERPT_SECONDS = 1.0
#: More threads than this open connections that are not kept.
_MOST_CONNECTIONS = 1024

#: What an id may hold to stand in a header as it is; the rest is percent-encoded.
_HEADER_SAFE = ":/@+=,"

_ENCODER = json.JSONEncoder(separators=(",", ":"))

USER_AGENT = f"ninja-tasks/{version('ninja-tasks')} (python-requests/{requests.__version__})"

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": USER_AGENT,
}


class SalesNinja:
    """The Sales Ninja API; safe to share between threads and across ``fork``.

    Args:
        settings: ``api_url``, the two timeouts and ``trust_env`` are used.
    """

    def __init__(self, settings: Settings) -> None:
        connect, read = settings.connect_timeout_seconds, settings.read_timeout_seconds
        self._timeouts = Timeout(connect=connect, read=read)
        self._exchange = Exchange(connect, read)
        self._trust_env = settings.trust_env
        self._url = settings.api_url + API_PATH
        self._threads = threading.local()
        self._making = threading.Lock()
        self._made: tuple[int, requests.PreparedRequest, Callable[..., Any]] | None = None

    def prepare(self) -> None:
        """Make what this thread sends with, so that its first request is as quick as the others.

        What cannot be made is tried again with the request, which tells of it.
        """
        with suppress(Exception):
            self._prepare()

    def _prepare(self) -> None:
        pid = os.getpid()
        if getattr(self._threads, "pid", None) == pid:
            return
        with self._making:
            if self._made is None or self._made[0] != pid:
                self._made = pid, *self._sender()
            _pid, template, self._threads.send = self._made
        self._threads.request = template.copy()
        self._threads.pid = pid

    def post(self, body: Mapping[str, Any], delivery_id: str) -> Attempt:
        """POST a goal once and return what came of it.

        Args:
            body: the JSON body of the API.
            delivery_id: sent as ``Idempotency-Key``, the same in every attempt for this goal.
        """
        payload = _Payload(_ENCODER.encode(body).encode())
        started_at, started = datetime.now(UTC), time.monotonic()
        self._exchange.begin()
        try:
            self._prepare()
            response = self._threads.send(self._request(payload, delivery_id))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is known what it means)
            return Attempt(
                outcome=outcome_of_failure(request_written=payload.written),
                started_at=started_at,
                milliseconds=_milliseconds_since(started),
                error=_name_of(error),
            )
        self._exchange.end_within(_EXCERPT_SECONDS)
        excerpt = _excerpt(response)
        return Attempt(
            outcome=outcome_of_status(response.status),
            started_at=started_at,
            milliseconds=_milliseconds_since(started),
            status=response.status,
            retry_after_seconds=retry_after_seconds(
                response.status, response.headers, datetime.now(UTC)
            ),
            excerpt=excerpt,
        )

    def _request(self, payload: _Payload, delivery_id: str) -> requests.PreparedRequest:
        request: requests.PreparedRequest = self._threads.request
        request.body = payload  # type: ignore[assignment]
        request.headers = {  # type: ignore[assignment]
            **_HEADERS,
            "Content-Length": str(len(payload.content)),
            "Idempotency-Key": quote(delivery_id, safe=_HEADER_SAFE, errors="replace"),
        }
        return request

    def _sender(self) -> tuple[requests.PreparedRequest, Callable[..., Any]]:
        """Return a request, and what sends its like and returns the answer as urllib3 has it."""
        session = requests.Session()
        session.trust_env = self._trust_env
        template = requests.Request("POST", self._url).prepare()
        options: dict[str, Any] = {
            **session.merge_environment_settings(str(template.url), {}, True, None, None),
            "timeout": self._timeouts,
        }
        address = _OneAddress(template, options)
        bind(address.pool, self._exchange)
        return template, partial(address.send, **options)


class _OneAddress(HTTPAdapter):
    """Sends requests to one address.

    Args:
        template: a request to it.
        options: with which all are sent, as :meth:`HTTPAdapter.send` takes them.

    Attributes:
        pool: of connections.
    """

    def __init__(self, template: requests.PreparedRequest, options: Mapping[str, Any]) -> None:
        super().__init__(pool_maxsize=_MOST_CONNECTIONS)
        verify, certificate = options["verify"], options["cert"]
        proxies = options["proxies"]
        self.pool: Any = super().get_connection_with_tls_context(
            template, verify, proxies, certificate
        )
        super().cert_verify(self.pool, template.url, verify, certificate)  # type: ignore[no-untyped-call]
        self._target = super().request_url(template, proxies)

    def get_connection_with_tls_context(self, *request: Any, **options: Any) -> Any:
        """Return the one pool of connections."""
        return self.pool

    def cert_verify(self, *request: Any) -> None:
        """Do nothing: the pool knows how to verify."""

    def request_url(self, *request: Any) -> str:
        """Return the one target."""
        return self._target

    def build_response(self, request: requests.PreparedRequest, answer: Any) -> Any:
        """Return the answer as it is."""
        return answer


class _Payload:
    """A request's body that knows whether it was handed to the connection.

    The connection is opened, TLS negotiated and the headers written before the body is asked for,
    so everything that fails before that moment cannot have been counted.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.written = False

    def __len__(self) -> int:
        return len(self.content)

    def __iter__(self) -> Iterator[bytes]:
        self.written = True
        yield self.content


def _excerpt(response: Any) -> str:
    """Read the start of the body, or what of it comes in time."""
    content = b""
    try:
        while more := response.read1(MAX_EXCERPT_BYTES - len(content)):
            content += more
    except (HTTPError, OSError):
        # It breaks off, or takes too long.
        pass
    finally:
        # One that was read to its end went back to the pool, and is not closed by this.
        response.close()
        response.release_conn()
    return content.decode(errors="replace")


def _name_of(error: BaseException) -> str:
    """Name what happened, such as ``ReadTimeout`` or ``ConnectionRefusedError``.

    ``requests`` has one class for every failed connection, so for that the first cause is named.
    """
    if type(error) is requests.ConnectionError:
        while cause := (error.__cause__ or error.__context__):
            error = cause
    return type(error).__name__


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)

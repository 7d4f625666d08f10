"""The HTTP client: one goal, one POST, one :class:`Attempt`.

``requests`` with a session for each thread, both timeouts, no redirects, TLS verified. Whatever
happens on the wire is an attempt; only a fault of the program itself leaves as an exception.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import requests
from urllib3.exceptions import HTTPError

from ..config import API_PATH, Settings
from .outcomes import Attempt, outcome_of_failure, outcome_of_status, retry_after_seconds

__all__ = ["MAX_EXCERPT_BYTES", "USER_AGENT", "SalesNinja"]

#: How much of an answer's body is read.
MAX_EXCERPT_BYTES = 2048

#: What an id may hold to stand in a header as it is; the rest is percent-encoded.
_HEADER_SAFE = ":/@+=,"

USER_AGENT = f"ninja-tasks/{version('ninja-tasks')} (python-requests/{requests.__version__})"


class SalesNinja:
    """The Sales Ninja API; safe to share between threads and across ``fork``.

    Args:
        settings: ``api_url``, the two timeouts and ``trust_env`` are used.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeouts = (settings.connect_timeout_seconds, settings.read_timeout_seconds)
        self._trust_env = settings.trust_env
        self._template = _template(settings.api_url + API_PATH)
        self._threads = threading.local()

    def prepare(self) -> None:
        """Make this thread's session, so that its first request is as quick as the others."""
        self._session()

    def post(self, body: Mapping[str, Any], delivery_id: str) -> Attempt:
        """POST a goal once and return what came of it.

        Args:
            body: the JSON body of the API.
            delivery_id: sent as ``Idempotency-Key``, the same in every attempt for this goal.
        """
        payload = _Payload(json.dumps(body, separators=(",", ":")).encode())
        request = self._template.copy()
        request.body = payload  # type: ignore[assignment]
        request.headers["Content-Length"] = str(len(payload.content))
        request.headers["Idempotency-Key"] = quote(delivery_id, safe=_HEADER_SAFE, errors="replace")
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            response = self._send(request)
        except Exception as error:
            if not (payload.written or isinstance(error, requests.RequestException)):
                raise
            return Attempt(
                outcome=outcome_of_failure(request_written=payload.written),
                started_at=started_at,
                milliseconds=_milliseconds_since(started),
                error=_name_of(error),
            )
        with response:
            excerpt = _excerpt(response)
        return Attempt(
            outcome=outcome_of_status(response.status_code),
            started_at=started_at,
            milliseconds=_milliseconds_since(started),
            status=response.status_code,
            retry_after_seconds=retry_after_seconds(
                response.status_code, response.headers, datetime.now(UTC)
            ),
            excerpt=excerpt,
        )

    def _send(self, request: requests.PreparedRequest) -> requests.Response:
        session = self._session()
        return session.send(
            request,
            timeout=self._timeouts,
            allow_redirects=False,
            **session.merge_environment_settings(request.url, {}, True, None, None),
        )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
            session.trust_env = self._trust_env
        return session


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


def _template(url: str) -> requests.PreparedRequest:
    headers = {
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
    }
    return requests.Request("POST", url, headers=headers).prepare()


def _excerpt(response: requests.Response) -> str:
    """Read the start of the body; an answer whose body breaks off has a status all the same."""
    try:
        content = response.raw.read(MAX_EXCERPT_BYTES)
    except (HTTPError, OSError):
        return ""
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

"""A scriptable Sales Ninja on a real socket, as strict about a goal as this package promises to be.

It keeps no file and logs nothing of a request; what it received lives in :class:`ReceivedGoal`.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from ..errors import InvalidGoal
from ..goals import format_created_on
from ..validation import goal_from_wire
from .answers import Answer, AnyAnswer, Reaction, as_reaction

__all__ = ["GOAL_PATH", "MAX_BODY_BYTES", "FakeSalesNinja", "ReceivedGoal"]

GOAL_PATH = "/outer/v1.0/goal/reach"
MAX_BODY_BYTES = 1 << 20

_LENGTH = re.compile(r"[0-9]{1,18}")
_BACKLOG = 1024
_ACCEPT_POLL_SECONDS = 0.02
_STOP_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 16 << 20

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ReceivedGoal:
    """One request that reached the fake API; ``repr`` shows nothing that can be personal data.

    Attributes:
        body: the JSON object, or ``None`` where the body is not one.
        raw: the body as it came.
        headers: the request's headers; ``get`` ignores case.
        at: when the request was read, an aware datetime in UTC.
        monotonic: the same moment on ``time.monotonic()``, for measuring intervals.
        delivery_id: the ``Idempotency-Key`` header, or ``None``.
        status: the status that was answered; ``None`` if the connection was closed or hung, and
            until the answer goes out.
    """

    body: dict[str, Any] | None = field(repr=False)
    raw: bytes = field(repr=False)
    headers: Message = field(repr=False)
    at: datetime
    monotonic: float = field(repr=False)
    delivery_id: str | None
    status: int | None = None


class FakeSalesNinja:
    """A Sales Ninja for tests: it takes goals over HTTP, answers as told and remembers them.

    It answers 200 with an empty body unless a script says otherwise. What the real API would not
    understand is never accepted, whatever the script: an invalid goal gets 400 and the faults as
    JSON. The port is taken when the object is made and kept until :meth:`close`, so connections
    are refused before :meth:`start` and after :meth:`stop`, and an outage ends on the same port.

    Args:
        port: port to listen on; 0 takes a free one.
        host: address to listen on.
        keep_bodies: ``False`` forgets body, raw bytes and headers once a request is answered, for
            runs with very many goals.
        on_request: called with every request when its fate is known, just before the answer.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        keep_bodies: bool = True,
        on_request: Callable[[ReceivedGoal], object] | None = None,
    ) -> None:
        self._host = host
        self._keep_bodies = keep_bodies
        self._on_request = on_request
        self._changed = threading.Condition()
        self._log = _Log()
        self._queue: deque[Reaction] = deque()
        self._goal_scripts: list[_GoalScript] = []
        self._default: Reaction = Answer()
        self._server: _Server | None = None
        self._take_port(port)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port, the same for the life of this object."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, to be used as the setting ``api_url``."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Accept connections, or do nothing if it does already."""
        if self._server is None:
            if not self._release_port.alive:
                self._take_port(self._port)
            self._server = _Server(self._listener, self)
            self._server.start()
        return self

    def stop(self) -> None:
        """Refuse new connections and close every open one, hanging requests included.

        Answers that are still delayed are not given. Records and scripts stay.
        """
        if self._server is not None:
            server, self._server = self._server, None
            server.stop()
            self._release_port()
            self._take_port(self._port)
            server.wait_for_handlers()

    def close(self) -> None:
        """Stop and give the port back."""
        self.stop()
        self._release_port()

    @property
    def default(self) -> Reaction:
        """The answer to requests for which no script has one."""
        return self._default

    @default.setter
    def default(self, answer: AnyAnswer) -> None:
        self._default = as_reaction(answer)

    def script(self, *answers: AnyAnswer) -> None:
        """Queue answers for the next requests, one each in order of arrival."""
        with self._changed:
            self._queue.extend(map(as_reaction, answers))

    def script_for(
        self,
        match: Callable[[ReceivedGoal], object],
        *answers: AnyAnswer,
        then: AnyAnswer | None = None,
    ) -> None:
        """Queue answers for the requests that match; they come before those of :meth:`script`.

        Args:
            match: tells whether a request is meant; of several scripts the oldest goes first.
            answers: one for each request that matches, in order of arrival.
            then: answer once those are used up; ``None`` leaves the request to other scripts.
        """
        last = None if then is None else as_reaction(then)
        with self._changed:
            script = _GoalScript(match, deque(map(as_reaction, answers)), last)
            self._goal_scripts.append(script)

    @property
    def requests(self) -> list[ReceivedGoal]:
        """Every request that was read, in order of arrival."""
        with self._changed:
            return list(self._log.requests)

    @property
    def delivered(self) -> list[ReceivedGoal]:
        """The requests that were answered 2xx, in order of the answers.

        The API has counted these, even where the client no longer waited for the answer.
        """
        with self._changed:
            return list(self._log.delivered)

    def wait_for(
        self, count: int, timeout_seconds: float = 10.0, *, delivered: bool = True
    ) -> list[ReceivedGoal]:
        """Wait until so many goals were delivered, and return all that were.

        Args:
            count: how many to wait for, counted since the last :meth:`clear`.
            timeout_seconds: how long to wait.
            delivered: ``False`` counts every request, whatever its answer.

        Raises:
            TimeoutError: if fewer came; the text says how many, and what they were answered.
        """
        with self._changed:
            if self._changed.wait_for(
                lambda: len(self._log.counted(delivered)) >= count, timeout_seconds
            ):
                return list(self._log.counted(delivered))
            summary = self._log.summary()
        wanted = f"{count} {'delivered goals' if delivered else 'requests'}"
        raise TimeoutError(f"waited {timeout_seconds:g} s for {wanted}; got {summary}")

    def clear(self) -> None:
        """Forget the requests so far; scripts stay."""
        with self._changed:
            self._log = _Log()

    def _take_port(self, port: int) -> None:
        """Bind without listening: connections are refused, and nobody else can have the port."""
        self._listener = _bound_socket(self._host, port)
        self._release_port = weakref.finalize(self, self._listener.close)
        self._port: int = self._listener.getsockname()[1]

    def _arrived(self, received: ReceivedGoal, fault: Answer | None) -> tuple[_Log, Reaction]:
        """Record a request and decide its answer, both in order of arrival."""
        with self._changed:
            log = self._log
            log.requests.append(received)
            reaction = fault or self._scripted(received)
            self._changed.notify_all()
        if isinstance(reaction, Answer) and reaction.is_success:
            return log, _fault_of_goal(received) or reaction
        return log, reaction

    def _scripted(self, received: ReceivedGoal) -> Reaction:
        for script in self._goal_scripts:
            if script.match(received) and (answer := script.next_answer()):
                return answer
        return self._queue.popleft() if self._queue else self._default

    def _decided(self, received: ReceivedGoal, log: _Log, status: int | None) -> None:
        """Record the fate of a request, before the client can know it."""
        with self._changed:
            received.status = status
            if status is not None and 200 <= status < 300:
                log.delivered.append(received)
            self._changed.notify_all()
        if self._on_request is not None:
            self._on_request(received)
        if not self._keep_bodies:
            received.body, received.raw, received.headers = None, b"", Message()


@dataclass(slots=True)
class _GoalScript:
    match: Callable[[ReceivedGoal], object]
    answers: deque[Reaction]
    then: Reaction | None

    def next_answer(self) -> Reaction | None:
        return self.answers.popleft() if self.answers else self.then


@dataclass(slots=True)
class _Log:
    """The requests between two calls of ``clear``; a late answer belongs to the log it began in."""

    requests: list[ReceivedGoal] = field(default_factory=list)
    delivered: list[ReceivedGoal] = field(default_factory=list)

    def counted(self, delivered: bool) -> list[ReceivedGoal]:
        return self.delivered if delivered else self.requests

    def summary(self) -> str:
        statuses = Counter(str(received.status or "no answer") for received in self.requests)
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        told = f" ({answers})" if answers else ""
        return f"{len(self.delivered)} delivered of {len(self.requests)} requests{told}"


class _Server(ThreadingHTTPServer):
    """One run of the fake API, from a start to the next stop."""

    request_queue_size = _BACKLOG

    def __init__(self, listener: socket.socket, api: FakeSalesNinja) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_activate()
        self.api = api
        self.stopping = threading.Event()
        self._handlers_changed = threading.Condition()
        self._handlers: dict[socket.socket, int | None] = {}

    def start(self) -> None:
        threading.Thread(
            target=self.serve_forever,
            args=(_ACCEPT_POLL_SECONDS,),
            name=f"fake-sales-ninja-{self.server_address[1]}",
            daemon=True,
        ).start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._handlers_changed:
            for connection in self._handlers:
                _shut(connection)

    def wait_for_handlers(self) -> None:
        """Wait until no handler can record anything, except one that is itself stopping us."""
        caller = threading.get_ident()
        with self._handlers_changed:
            self._handlers_changed.wait_for(
                lambda: all(ident == caller for ident in self._handlers.values()), _STOP_SECONDS
            )

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._handlers_changed:
            self._handlers[request] = None
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._handlers_changed:
            self._handlers[request] = threading.get_ident()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._handlers_changed:
            super().shutdown_request(request)
            del self._handlers[request]
            self._handlers_changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not self.stopping.is_set() and not isinstance(sys.exception(), ConnectionError):
            _logger.exception("the fake API could not handle a request")  # noqa: LOG004 (called by socketserver's handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection. Every request is read to its end, so that it can be kept alive."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "FakeSalesNinja"
    sys_version = ""
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        raw = self._read_body()
        received = ReceivedGoal(
            body=_json_object(raw),
            raw=raw,
            headers=self.headers,
            at=datetime.now(UTC),
            monotonic=time.monotonic(),
            delivery_id=self.headers.get("Idempotency-Key"),
        )
        fault = _fault_of_request(self.command, self.path, self.headers)
        log, reaction = self.server.api._arrived(received, fault)
        if isinstance(reaction, Answer):
            self._answer(reaction, received, log)
        else:
            self.server.api._decided(received, log, status=None)
            self.server.stopping.wait(reaction.delay_seconds)
            self.close_connection = True

    # The names that http.server looks for.
    do_CONNECT = do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_PUT = do_TRACE = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent, because the path and the client's address belong in no log."""

    def _read_body(self) -> bytes:
        length = _content_length(self.headers)
        if length is None or length > MAX_BODY_BYTES:
            self.close_connection = True
            return b""
        raw = self.rfile.read(length)
        if len(raw) < length:
            raise ConnectionAbortedError("the client left in the middle of a request")
        return raw

    def _answer(self, answer: Answer, received: ReceivedGoal, log: _Log) -> None:
        must_linger = self.close_connection
        if answer.delay_seconds:
            self.server.stopping.wait(answer.delay_seconds)
        if self.server.stopping.is_set():
            self.close_connection = True
            return
        self.server.api._decided(received, log, answer.status)
        self._send(answer)
        if must_linger:
            self._linger()

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.retry_after is not None:
            self.send_header("Retry-After", str(answer.retry_after))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.body and self.command != "HEAD":
            self.wfile.write(answer.body)

    def _linger(self) -> None:
        """Let the client finish sending: closing on unread data would destroy the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER_SECONDS)
        left = _LINGER_BYTES
        while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)


def _fault_of_request(command: str, path: str, headers: Message) -> Answer | None:
    """Return the refusal of a request that is none for the goal method, whatever its body."""
    if path != GOAL_PATH:
        return _refusal(404, {"message": f"the only path is {GOAL_PATH}"})
    if command != "POST":
        return _refusal(405, {"message": "the only method is POST"}, ("Allow", "POST"))
    if "Content-Length" not in headers or "Transfer-Encoding" in headers:
        return _refusal(411, {"message": "send the body with a Content-Length"})
    length = _content_length(headers)
    if length is None:
        return _refusal(400, {"message": "Content-Length must be one number"})
    if length > MAX_BODY_BYTES:
        return _refusal(413, {"message": f"the body must have at most {MAX_BODY_BYTES} bytes"})
    if headers.get_content_type() != "application/json":
        return _refusal(415, {"message": "the Content-Type must be application/json"})
    return None


def _fault_of_goal(received: ReceivedGoal) -> Answer | None:
    """Return the refusal of a body that is no goal in the exact form that the package promises."""
    if received.body is None:
        return _refusal(400, {"_schema": ["must be a JSON object in UTF-8"]})
    try:
        goal = goal_from_wire(received.body)
    except InvalidGoal as error:
        return _refusal(400, error.messages)
    if goal.created_on and received.body["CreatedOnUtc"] != format_created_on(goal.created_on):
        return _refusal(400, {"CreatedOnUtc": ["must be written with six digits of a second"]})
    return None


def _refusal(status: int, content: Mapping[str, Any], *headers: tuple[str, str]) -> Answer:
    typed = (("Content-Type", "application/json"), *headers)
    return Answer(status, body=json.dumps(content).encode(), headers=typed)


def _content_length(headers: Message) -> int | None:
    """Return how many bytes to read, or ``None`` if the request does not say it clearly."""
    length = headers.get("Content-Length", "0")
    is_clear = _LENGTH.fullmatch(length) and "Transfer-Encoding" not in headers
    return int(length) if is_clear else None


def _json_object(raw: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _bound_socket(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return

"""A thread's own line to Redis, on which several scripts are asked in one round trip.

Every wait for an answer lets the processor go, and what it then costs to come back is more than the
script itself. So a question whose answer nobody waits for can be left on the line: it is sent with
the next one, and both answers are read together.

A script must be safe to repeat: where an answer is lost, all questions of that round trip are asked
again.

A line has a connection only while an answer is on its way. All lines of a process share their
connections, so that a hundred threads which wait for the API hold none.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError, ResponseError

from ..redis_errors import UnsettledError, can_pass, reason_of
from .scripts import text_of

__all__ = ["Line", "LineConnections", "Question", "Script"]

_IDLE_SECONDS = 10.0
_LONGEST_WAIT_SECONDS, _LOOK_SECONDS = 1.0, 0.02
_TOO_MANY_CLIENTS = "max number of clients"


class Script:
    """A script of this package, and how Redis calls it.

    Args:
        name: of its file, without the ending.
        constants: numbers that it knows by these names.
    """

    def __init__(self, name: str, **constants: float) -> None:
        known = "".join(f"local {name} = {value}\n" for name, value in constants.items())
        self.text = known + text_of(name)
        self.digest = hashlib.sha1(self.text.encode()).hexdigest()  # noqa: S324 (Redis' own name for it)


class Question(NamedTuple):
    """A script with its keys and arguments.

    Attributes:
        script: the script.
        keys: its keys.
        arguments: strings and numbers.
    """

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]

    def words(self) -> tuple[Any, ...]:
        """Return the command that runs it, if Redis knows it already."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def words_with_text(self) -> tuple[Any, ...]:
        """Return the command that runs it and makes it known."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


#: A question, and what is done with its answer.
_Waiting = tuple[Question, Callable[[Any], None]]


class LineConnections:
    """The connections of all lines of a process; those that nobody used for 10 seconds are closed.

    A process that was forked has connections of its own.

    Args:
        client: whose address and options they have. They do not count among the connections of the
            client's pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._idle: deque[tuple[float, Any]] = deque()
        self._is_watched = False
        self._pid = os.getpid()

    def take_open(self) -> Any | None:
        """Return a connection that was used before, ``None`` if there is none."""
        if self._pid != os.getpid():
            self._idle, self._is_watched, self._pid = deque(), False, os.getpid()
        try:
            return self._idle.pop()[1]
        except IndexError:
            return None

    def open(self) -> Any:
        """Return a new connection; where Redis takes no more, one that another thread gives back.

        Raises:
            redis.ConnectionError: if there is none within a second.
            redis.TimeoutError: if Redis does not answer.
        """
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        give_up_at = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            try:
                connection.connect()
            except redis.ConnectionError as error:
                if _TOO_MANY_CLIENTS not in str(error) or time.monotonic() >= give_up_at:
                    raise
            else:
                return connection
            time.sleep(_LOOK_SECONDS)
            if (given_back := self.take_open()) is not None:
                return given_back

    def give_back(self, connection: Any) -> None:
        """Let other lines use a connection on which no answer is awaited."""
        self._idle.append((time.monotonic(), connection))
        if not self._is_watched:
            self._watch()

    def close_all(self) -> None:
        """Close what nobody uses: it leads to a server that is gone, or is not the right one."""
        while (connection := self.take_open()) is not None:
            connection.disconnect()

    def _watch(self) -> None:
        self._is_watched = True
        timer = threading.Timer(_IDLE_SECONDS, self._close_idle)
        timer.daemon = True
        timer.start()

    def _close_idle(self) -> None:
        used_after = time.monotonic() - _IDLE_SECONDS
        while self._idle:
            try:
                since, connection = self._idle.popleft()
            except IndexError:
                break
            if since > used_after:
                self._idle.appendleft((since, connection))
                break
            connection.disconnect()
        self._is_watched = False
        if self._idle:
            self._watch()


class Line:
    """What one thread asks.

    Args:
        connections: of this process.
    """

    def __init__(self, connections: LineConnections) -> None:
        self._connections = connections
        self._waiting: list[_Waiting] = []

    def leave(self, question: Question, then: Callable[[Any], None]) -> None:
        """Let a question go with the next one.

        Args:
            question: which must be safe to repeat.
            then: is given the answer.
        """
        self._waiting.append((question, then))

    def ask(self, question: Question) -> Any:
        """Ask, after what was left before, and return the answer.

        Raises:
            redis.RedisError: if an answer is missing, of this question or of one that was left,
                which then still is. An error that cannot pass is about this question.
        """
        answers: list[Any] = []
        own = question, answers.append
        self._waiting.append(own)
        try:
            self._finish(own)
        finally:
            if own in self._waiting:
                self._waiting.remove(own)
        return answers[0]

    def finish(self) -> None:
        """Ask what was left, and wait for all answers.

        Raises:
            redis.RedisError: as :meth:`ask`; always one that can pass.
        """
        self._finish(None)

    def take_left(self) -> list[_Waiting]:
        """Return what is left and what to do with the answers, and forget it: another asks it."""
        left, self._waiting = self._waiting, []
        return left

    def _finish(self, own: _Waiting | None) -> None:
        if not self._waiting:
            return None
        if (old := self._connections.take_open()) is not None:
            try:
                return self._read(old, own)
            except redis.ConnectionError:
                # One that nobody used for a while may have been closed, which is no trouble of
                # Redis', and the others then likely are too.
                self._connections.close_all()
        return self._read(self._connections.open(), own)

    def _read(self, connection: Any, own: _Waiting | None) -> None:
        asked = self._waiting
        try:
            answers = _answers(connection, [question for question, _then in asked])
        except BaseException:
            connection.disconnect()
            raise
        self._connections.give_back(connection)
        self._waiting = []
        refusal: Exception | None = None
        for one, answer in zip(asked, answers, strict=True):
            if not isinstance(answer, ResponseError):
                one[1](answer)
            elif one is own:
                refusal = answer
            else:
                self._waiting.append(one)
                refusal = refusal or _of_another(answer)
        if refusal is not None:
            raise refusal


def _answers(connection: Any, questions: Sequence[Question]) -> list[Any]:
    """Ask all questions in one round trip; a refusal is an answer."""

    def send(commands: Iterable[tuple[Any, ...]]) -> None:
        # No health check: a connection that was closed is noticed, and opened anew, all the same.
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)

    send(question.words() for question in questions)
    answers = [_answer(connection) for _ in questions]
    unknown = [at for at, one in enumerate(answers) if isinstance(one, NoScriptError)]
    if unknown:
        send(questions[at].words_with_text() for at in unknown)
        for at in unknown:
            answers[at] = _answer(connection)
    return answers


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _of_another(error: ResponseError) -> Exception:
    return error if can_pass(error) else UnsettledError(reason_of(error))

"""A thread's own line to Redis, on which several scripts are asked in one round trip.

Every wait for an answer lets the processor go, and what it then costs to come back is more than the
script itself. So a question whose answer nobody waits for can be left on the line: it is sent with
the next one, and both answers are read together.

A script must be safe to repeat: where an answer is lost, all questions of that round trip are asked
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError, ResponseError

from .scripts import text_of

__all__ = ["Line", "Question", "Script"]


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


class Line:
    """A connection that belongs to one thread.

    Args:
        client: whose address and options it has. It is opened when it is first used, and does not
            count among the connections of the client's pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        pool: Any = client.connection_pool
        self._connection: Any = pool.connection_class(**pool.connection_kwargs)
        self._waiting: list[tuple[Question, Callable[[Any], None]]] = []

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
                which then still is.
        """
        answers: list[Any] = []
        own = question, answers.append
        self._waiting.append(own)
        try:
            self.finish()
        finally:
            if own in self._waiting:
                self._waiting.remove(own)
        return answers[0]

    def finish(self) -> None:
        """Ask what was left, and wait for all answers.

        Raises:
            redis.RedisError: as :meth:`ask`.
        """
        if not self._waiting:
            return
        is_old = self._connection._sock is not None
        try:
            self._read()
        except redis.ConnectionError:
            # One that nobody used for a while may have been closed, which is no trouble of Redis'.
            if not is_old:
                raise
            self._read()

    def _read(self) -> None:
        asked = self._waiting
        packed = self._connection.pack_commands(question.words() for question, _then in asked)
        self._connection.send_packed_command(packed, check_health=False)
        answers = [self._answer() for _ in asked]
        unknown = [at for at, one in enumerate(answers) if isinstance(one, NoScriptError)]
        if unknown:
            texts = [asked[at][0].words_with_text() for at in unknown]
            self._connection.send_packed_command(
                self._connection.pack_commands(texts), check_health=False
            )
            for at in unknown:
                answers[at] = self._answer()
        self._waiting = []
        for (question, then), answer in zip(asked, answers, strict=True):
            if isinstance(answer, ResponseError):
                self._waiting.append((question, then))
            else:
                then(answer)
        errors = [answer for answer in answers if isinstance(answer, ResponseError)]
        if errors:
            raise errors[0]

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error

"""A thread's line to Redis: questions that are left go with the next one, and none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ninja_tasks.delivery.line import Line, LineConnections, Question, Script
from ninja_tasks.redis_errors import UnsettledError
from ninja_tasks.testing import EmbeddedServer, embedded_server

COUNT = "return redis.call('INCR', KEYS[1])"
FAIL = "return redis.call('INCR', KEYS[1]) + nothing"


class Text(Script):
    """A script that is not in a file."""

    def __init__(self, text: str) -> None:
        super().__init__("breaker")
        self.text = text
        self.digest = redis.Redis().register_script(text).sha


def count(key: str) -> Question:
    return Question(Text(COUNT), (key,), ())


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(appendonly=True, extra_arguments=("--appendfsync", "always")) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as connected:
        yield connected


@pytest.fixture
def line(client: redis.Redis) -> Line:
    return Line(LineConnections(client))


def test_a_question_is_answered_by_a_redis_that_does_not_know_its_script(line: Line) -> None:
    assert line.ask(count("a")) == 1
    assert line.ask(count("a")) == 2


def test_what_was_left_is_asked_before_the_next_question_in_one_round_trip(
    line: Line, client: redis.Redis
) -> None:
    answers: list[Any] = []
    line.ask(count("b"))
    line.leave(count("a"), answers.append)
    line.leave(count("a"), answers.append)
    assert client.exists("a") == 0
    before = client.info("stats")["total_reads_processed"]
    assert line.ask(count("a")) == 3
    # The second question of this client is one read more.
    assert client.info("stats")["total_reads_processed"] - before == 2
    assert answers == [1, 2]


def test_what_was_left_is_asked_at_the_end(line: Line, client: redis.Redis) -> None:
    answers: list[Any] = []
    line.leave(count("a"), answers.append)
    line.finish()
    line.finish()
    assert (answers, client.get("a")) == ([1], "1")


def test_a_question_that_redis_refuses_stays_left_and_the_others_are_answered(
    line: Line, client: redis.Redis
) -> None:
    answers: list[Any] = []
    client.set("a", "no number")
    line.leave(count("a"), answers.append)
    line.leave(count("b"), answers.append)
    with pytest.raises(UnsettledError, match="not an integer"):
        line.ask(count("c"))
    assert answers == [1]
    client.delete("a")
    assert line.ask(count("c")) == 2
    assert answers == [1, 1]


def test_an_error_of_the_script_itself_reaches_who_asks(line: Line) -> None:
    with pytest.raises(redis.ResponseError, match="nothing"):
        line.ask(Question(Text(FAIL), ("a",), ()))
    assert line.ask(count("a")) == 2


def test_a_connection_that_was_closed_meanwhile_is_opened_again_without_an_error(
    line: Line, client: redis.Redis
) -> None:
    line.ask(count("a"))
    client.client_kill_filter(_type="normal", skipme=True)
    assert line.ask(count("a")) == 2


def test_what_was_left_survives_a_redis_that_is_away(line: Line, server: EmbeddedServer) -> None:
    answers: list[Any] = []
    line.ask(count("b"))
    line.leave(count("a"), answers.append)
    server.kill()
    with pytest.raises(redis.ConnectionError):
        line.ask(count("b"))
    assert answers == []
    server.start()
    assert line.ask(count("b")) == 2
    assert answers == [1]


def test_constants_stand_before_a_script() -> None:
    assert Script("breaker", LIFE=17, TOLERANCE=0.5).text.startswith(
        "local LIFE = 17\nlocal TOLERANCE = 0.5\n"
    )

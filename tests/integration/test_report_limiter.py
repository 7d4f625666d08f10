"""How many Sentry events many dead letters make, in a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from ninja_tasks.dead_letters.limiter import LetterClass, ReportLimiter
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import EmbeddedServer

ONE = LetterClass("rejected", "rejected", "400")
TWO = LetterClass("unknown", "ReadTimeout", "none")


@pytest.fixture
def client(ninja_redis: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(ninja_redis.url, decode_responses=True) as connected:
        connected.flushall()
        yield connected


def test_the_first_of_each_class_is_told_at_once_and_the_counts_add_up(
    client: redis.Redis,
) -> None:
    workers = [ReportLimiter(client, Keys("test:")) for _ in range(2)]
    told = [workers[number % 2].count(ONE, f"id-{number}") for number in range(100)]
    assert told == [1] + [0] * 99
    assert workers[0].count(TWO, "other") == 1
    assert workers[0].overdue() == []
    (untold,) = workers[1].overdue(everything=True)
    assert (untold.letters, untold.count, untold.delivery_id) == (ONE, 99, "id-99")
    assert workers[0].overdue(everything=True) == []


def test_the_first_letter_after_the_window_tells_of_those_in_it(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ninja_tasks.dead_letters.limiter.WINDOW_SECONDS", 0.2)
    limiter = ReportLimiter(client, Keys("test:"))
    told = []
    while told.count(0) < 1 or sum(told) < 2:
        told.append(limiter.count(ONE, "id"))
    assert sum(told) == len(told)


def test_where_redis_is_away_each_process_has_its_own_windows_and_loses_no_count(
    ninja_redis: EmbeddedServer, client: redis.Redis
) -> None:
    with redis.Redis(port=1, decode_responses=True) as away:
        limiter = ReportLimiter(away, Keys("test:"))
        assert [limiter.count(ONE, "id") for _ in range(10)] == [1] + [0] * 9
    back = ReportLimiter(client, Keys("test:"))
    limiter._count, limiter._take = back._count, back._take
    assert limiter.count(ONE, "id") == 10
    assert limiter.count(ONE, "id") == 0

"""Parked goals in a real Valkey, and their way back to a real queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery
from stack import wait_until

from ninja_tasks.config import load_settings
from ninja_tasks.delivery.parking import ParkedGoal, Parking
from ninja_tasks.delivery.state import Keys, connect
from ninja_tasks.errors import PublishError
from ninja_tasks.testing import EmbeddedServer

ENQUEUED_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(ninja_redis: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(ninja_redis.url, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def parking(client: redis.Redis) -> Parking:
    return Parking(client, Keys("test:"))


@pytest.fixture
def app(ninja_redis: EmbeddedServer) -> Celery:
    shop = Celery("shop", broker=ninja_redis.url, set_as_current=False)
    shop.conf.task_publish_retry = False
    return shop


def park(parking: Parking, name: str, seconds: float, **details: Any) -> None:
    goal = ParkedGoal({"name": name}, {"ninja_replays": 1}, **{"retries": 3} | details)
    parking.park(name, goal, enqueued_at=ENQUEUED_AT, seconds=seconds)


def set_aside(delivery_id: str, error: Exception, raw: bytes) -> None:
    raise AssertionError(f"{delivery_id} {error}")


def queued(client: redis.Redis) -> list[dict[str, Any]]:
    return [json.loads(str(one)) for one in client.lrange("ninja_tasks", 0, -1)]


def test_a_due_goal_goes_back_to_the_queue_as_it_was(
    parking: Parking, app: Celery, client: redis.Redis
) -> None:
    park(parking, "due", 0)
    park(parking, "later", 60)
    assert parking.move_due(app, 10, set_aside) == 1
    (message,) = queued(client)
    assert (message["headers"]["id"], message["headers"]["retries"]) == ("due", 3)
    assert message["headers"]["ninja_replays"] == 1
    assert message["headers"]["eta"] is None
    assert parking.count() == 1
    assert parking.due_at("due") is None
    due_at = parking.due_at("later")
    assert due_at is not None
    assert 50 < (due_at - datetime.now(UTC)).total_seconds() <= 60
    assert parking.oldest_since() == ENQUEUED_AT


def test_a_goal_is_parked_once_however_often_it_fails(
    parking: Parking, app: Celery, client: redis.Redis
) -> None:
    park(parking, "one", 60)
    park(parking, "one", 0, retries=4)
    assert parking.count() == 1
    parking.move_due(app, 10, set_aside)
    assert [message["headers"]["retries"] for message in queued(client)] == [4]


def test_goals_are_moved_in_the_order_of_their_times_and_no_more_than_asked_for(
    parking: Parking, app: Celery, client: redis.Redis
) -> None:
    for number in range(5):
        park(parking, str(number), 0)
        at_once = str(client.zscore("test:parked:due", str(number)))
        client.zadd("test:parked:due", {str(number): int(float(at_once)) - 10 + number})
    assert parking.move_due(app, 3, set_aside) == 3
    assert {message["headers"]["id"] for message in queued(client)} == {"0", "1", "2"}


def test_a_goal_whose_claim_stands_is_not_moved_by_another(
    parking: Parking, app: Celery, client: redis.Redis
) -> None:
    park(parking, "one", 0)
    parking._claim(keys=parking._keys[:2], args=[10, 60_000])
    assert parking.move_due(app, 10, set_aside) == 0
    assert parking.count() == 1


def test_a_claim_that_ran_out_is_taken_over(
    parking: Parking, app: Celery, client: redis.Redis
) -> None:
    park(parking, "one", 0)
    parking._claim(keys=parking._keys[:2], args=[10, 1])
    assert wait_until(lambda: parking.move_due(app, 10, set_aside), "the claim to run out") == 1


def test_a_goal_that_is_parked_again_before_it_is_forgotten_stays(parking: Parking) -> None:
    park(parking, "one", 0)
    claimed = parking._claim(keys=parking._keys[:2], args=[10, 30_000])
    park(parking, "one", 60, retries=4)
    parking._unpark(keys=parking._keys, args=claimed[:2])
    assert parking.count() == 1
    assert parking.due_at("one") is not None


def test_a_goal_that_the_broker_does_not_take_stays(parking: Parking, client: redis.Redis) -> None:
    away = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    away.conf.task_publish_retry = False
    park(parking, "one", 0)
    with pytest.raises(PublishError):
        parking.move_due(away, 10, set_aside)
    due_at = parking.due_at("one")
    assert due_at is not None
    assert 3 < (due_at - datetime.now(UTC)).total_seconds() <= 5


@pytest.mark.parametrize(
    "document",
    [
        "no JSON",
        b"\xff\xfe",
        "[]",
        '{"headers": {}, "retries": 0}',
        '{"body": {}, "headers": "of another version"}',
    ],
)
def test_what_cannot_be_read_is_set_aside_with_its_bytes_and_blocks_no_goal(
    ninja_redis: EmbeddedServer, app: Celery, client: redis.Redis, document: str | bytes
) -> None:
    settings = load_settings({"ninja_key_prefix": "test:"}, {}, ninja_redis.url)
    parking = Parking(connect(settings), Keys("test:"))
    for name in ("before", "broken", "later"):
        park(parking, name, 0)
    client.hset("test:parked", "broken", document)
    found: list[tuple[str, bytes]] = []

    def fail(delivery_id: str, error: Exception, raw: bytes) -> None:
        raise redis.ConnectionError

    def keep(delivery_id: str, error: Exception, raw: bytes) -> None:
        found.append((delivery_id, raw))

    parking.move_due(app, 10, fail)
    assert {message["headers"]["id"] for message in queued(client)} == {"before", "later"}
    assert parking.count() == 1
    client.zadd("test:parked:due", {"broken": 1})
    parking.move_due(app, 10, keep)
    assert found == [("broken", document.encode() if isinstance(document, str) else document)]
    assert parking.count() == 0

"""Dead letters in a real Valkey: the store, and replaying to a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner
from unit.bad_goals import CUSTOMER_ID, GOAL_ID

from ninja_tasks.cli import ninja
from ninja_tasks.dead_letters.replay import ReplayResult, replay
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.record import AttemptLine
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import EmbeddedServer

LETTER = DeadLetter(
    delivery_id="one",
    reason="exhausted",
    error="status 503",
    error_class="refused",
    status=503,
    excerpt="",
    attempts=2,
    history=(
        AttemptLine("2026-01-01T00:00:00+00:00", "unknown", None, 12),
        AttemptLine("2026-01-01T00:00:02+00:00", "refused", 503, 3),
    ),
    doubtful=1,
    possible_duplicate=True,
    payload={
        "GoalId": GOAL_ID,
        "CustomerId": CUSTOMER_ID,
        "CreatedOnUtc": "2026-01-01 00:00:00.000001",
    },
    on_unknown="retry",
    enqueued_at="2026-01-01T00:00:00+00:00",
    first_attempt_at="2026-01-01T00:00:00+00:00",
    last_attempt_at="2026-01-01T00:00:02+00:00",
    died_at="2026-01-01T00:00:03+00:00",
    worker="celery@here",
    sentry_event_id=None,
    replays=0,
)


@pytest.fixture
def client(ninja_redis: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(ninja_redis.url, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def store(client: redis.Redis) -> DeadLetterStore:
    return DeadLetterStore(client, Keys("test:"))


@pytest.fixture
def app(ninja_redis: EmbeddedServer) -> Celery:
    shop = Celery("shop", broker=ninja_redis.url, set_as_current=False)
    shop.conf.task_publish_retry = False
    return shop


def queued(app: Celery) -> list[dict[str, Any]]:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        return [channel._get("ninja_tasks") for _ in range(channel._size("ninja_tasks"))]


def test_a_letter_is_read_as_it_was_written(store: DeadLetterStore) -> None:
    store.put(LETTER)
    stored = store.get("one")
    assert stored is not None
    assert stored.letter == LETTER
    assert store.get("two") is None


def test_the_newest_letters_come_first(store: DeadLetterStore) -> None:
    for second in range(1200):
        died_at = f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00"
        store.put(replace(LETTER, delivery_id=str(second), died_at=died_at))
    assert [one.letter.delivery_id for one in store.newest(2)] == ["1199", "1198"]
    assert len(list(store.newest())) == store.count() == 1200


def test_a_goal_that_dies_twice_has_its_later_letter(store: DeadLetterStore) -> None:
    store.put(LETTER)
    store.put(replace(LETTER, replays=1))
    (stored,) = store.newest()
    assert stored.letter.replays == 1


def test_a_letter_that_was_written_again_meanwhile_is_not_removed(store: DeadLetterStore) -> None:
    store.put(LETTER)
    (before,) = store.newest()
    store.put(replace(LETTER, replays=1))
    assert store.remove(before) == 0
    (after,) = store.newest()
    assert store.remove(after) == 1
    assert (store.count(), list(store.newest())) == (0, [])


def test_a_replayed_goal_keeps_its_id_its_time_and_its_past(
    app: Celery, store: DeadLetterStore
) -> None:
    store.put(LETTER)
    assert replay(app, store, store.newest()) == ReplayResult(1, 1, 0, 0)
    (message,) = queued(app)
    headers = message["headers"]
    assert headers["id"] == "one"
    assert headers["argsrepr"] == "<goal>"
    assert headers["ninja_replays"] == 1
    assert headers["ninja_enqueued_at"] > LETTER.enqueued_at
    attempts = headers["ninja_attempts"]
    assert (attempts["made"], attempts["charged"], attempts["doubtful"]) == (2, 0, 1)
    assert store.count() == 0


def test_a_replay_that_the_broker_does_not_confirm_loses_nothing(store: DeadLetterStore) -> None:
    away = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    away.conf.task_publish_retry = False
    store.put(LETTER)
    assert replay(away, store, store.newest()) == ReplayResult(1, 0, 0, 1)
    assert store.count() == 1


def test_a_dry_run_changes_nothing(app: Celery, store: DeadLetterStore) -> None:
    store.put(LETTER)
    store.put(replace(LETTER, delivery_id="two", payload={}))
    assert replay(app, store, store.newest(), dry_run=True) == ReplayResult(2, 1, 1, 0)
    assert (store.count(), queued(app)) == (2, [])


def test_several_reasons_select_the_letters_of_each(app: Celery, client: redis.Redis) -> None:
    store = DeadLetterStore(client, Keys("ninja:"))
    for reason in ("rejected", "expired", "unknown"):
        store.put(replace(LETTER, delivery_id=reason, reason=reason))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(ninja, arguments, obj=SimpleNamespace(app=app))
        assert done.exit_code == 0, done.output
        return done.output

    two = ("--reason", "rejected", "--reason", "expired")
    listed = run("dead", "list", *two, "--json").splitlines()
    assert {json.loads(line)["reason"] for line in listed} == {"rejected", "expired"}
    assert '"matched": 2' in run("dead", "replay", *two, "--dry-run", "--json")
    assert "discarded: 2" in run("dead", "discard", *two, "--yes")
    assert [one.letter.reason for one in store.newest()] == ["unknown"]


def test_the_text_of_a_letter_shows_no_personal_data() -> None:
    assert CUSTOMER_ID not in repr(replace(LETTER, excerpt="echo"))
    assert "echo" not in repr(replace(LETTER, excerpt="echo"))

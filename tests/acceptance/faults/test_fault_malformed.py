"""Whatever lies on the queue: the worker lives, and what it cannot take becomes a dead letter."""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING

import pytest
import redis
from malformed import CASES, GOAL, INVALID, ON_A_LIST, Parts
from stack import wait_until

from ninja_tasks import enqueue_goal
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.state import Keys

if TYPE_CHECKING:
    from conftest import System


def put(system: System, raw: bytes) -> DeadLetter:
    """Put bytes on the list, and return the one letter that comes of it."""
    with redis.Redis.from_url(system.environment["CELERY_BROKER_URL"]) as client:
        text = redis.Redis.from_url(system.environment["CELERY_BROKER_URL"], decode_responses=True)
        store = DeadLetterStore(text, Keys("ninja:"))
        before = {one.letter.delivery_id for one in store.newest()}
        client.lpush("ninja_tasks", raw)

        def new() -> list[DeadLetter]:
            found = [one.letter for one in store.newest()]
            return [letter for letter in found if letter.delivery_id not in before]

        (letter,) = wait_until(new, f"a letter; log:\n{system.worker.log[-3000:]}")
        wait_until(lambda: not client.hlen("ninja_tasks.held"), "the acknowledgement")
        text.close()
    return letter


def assert_next_goal_is_delivered(system: System) -> None:
    goal = {"goal_id": GOAL["GoalId"], "customer_id": uuid.uuid4()}
    system.status_when(enqueue_goal(**goal, app=system.app), "delivered")


@pytest.mark.parametrize("name", ON_A_LIST)
def test_bytes_that_are_no_message_become_a_dead_letter(system: System, name: str) -> None:
    letter = put(system, ON_A_LIST[name])
    assert letter.reason == "malformed"
    assert base64.b64decode(letter.raw or "") == ON_A_LIST[name]
    assert_next_goal_is_delivered(system)


@pytest.mark.parametrize("name", CASES)
def test_a_message_that_celery_cannot_take_becomes_a_dead_letter(system: System, name: str) -> None:
    parts = Parts()
    CASES[name](parts)
    raw = json.dumps(parts.packed()).encode()
    letter = put(system, raw)
    assert letter.reason == "malformed"
    assert base64.b64decode(letter.raw or "") == raw
    assert_next_goal_is_delivered(system)


@pytest.mark.parametrize("name", INVALID)
def test_a_message_of_no_goal_becomes_a_dead_letter(system: System, name: str) -> None:
    parts = Parts()
    INVALID[name](parts)
    letter = put(system, json.dumps(parts.packed()).encode())
    assert (letter.reason, letter.delivery_id) == ("invalid", parts.headers["id"])
    assert_next_goal_is_delivered(system)


def test_a_goal_whose_sender_gave_it_a_time_becomes_an_expired_letter_after_it(
    system: System,
) -> None:
    parts = Parts()
    parts.headers["expires"] = "2026-01-01T00:00:00+00:00"
    assert put(system, json.dumps(parts.packed()).encode()).reason == "expired"


def test_a_broken_copy_does_not_replace_the_letter_of_a_whole_goal(system: System) -> None:
    parts = Parts(body=json.dumps([[], {}, {}]).encode())
    whole = put(system, json.dumps(parts.packed()).encode())
    parts.body = b"{bad json"
    broken = put(system, json.dumps(parts.packed()).encode())
    assert whole.delivery_id == parts.headers["id"] != broken.delivery_id


def test_a_broken_message_with_the_id_of_a_delivered_goal_is_not_lost(system: System) -> None:
    goal = {"goal_id": GOAL["GoalId"], "customer_id": uuid.uuid4()}
    parts = Parts(body=b"{bad json")
    parts.headers["id"] = enqueue_goal(**goal, app=system.app)
    system.status_when(parts.headers["id"], "delivered")
    raw = json.dumps(parts.packed()).encode()
    letter = put(system, raw)
    assert base64.b64decode(letter.raw or "") == raw
    assert system.status_when(parts.headers["id"], "delivered")


def test_people_see_the_bytes_and_the_log_does_not(system: System) -> None:
    letter = put(system, b"a-secret-that-is-no-json")
    shown = system.json_of("dead", "show", letter.delivery_id)
    assert base64.b64decode(shown["raw"]) == b"a-secret-that-is-no-json"
    plan = system.json_of("dead", "replay", letter.delivery_id, "--yes")
    assert (plan["matched"], plan["queued"], plan["skipped"]) == (1, 0, 1)
    assert "a-secret-that-is-no-json" not in system.worker.log
    assert "a-secret-that-is-no-json" not in json.dumps(system.kent.all_events())


def test_what_was_parked_and_cannot_be_read_becomes_a_dead_letter(system: System) -> None:
    raw = b'{"body": \xff'
    with redis.Redis.from_url(system.environment["CELERY_BROKER_URL"]) as client:
        client.hset("ninja:parked", "broken", raw)
        client.zadd("ninja:parked:due", {"broken": 1})
        wait_until(
            lambda: not client.hlen("ninja:parked"), f"its end; log:\n{system.worker.log[-3000:]}"
        )
    found = system.json_of("dead", "show", "broken")
    assert (found["reason"], base64.b64decode(found["raw"])) == ("malformed", raw)

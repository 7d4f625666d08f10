"""When a conversion happened, where only the message says it, and where nothing does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery
from stack import wait_until

from ninja_tasks.config import settings_of
from ninja_tasks.dead_letters.replay import ReplayResult, replay
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.state import Keys, connect
from ninja_tasks.goals import format_created_on
from ninja_tasks.status import statistics

if TYPE_CHECKING:
    from conftest import System

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
SENT = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)
SECONDS = int(SENT.timestamp())


def send(system: System, created_on: str | None = None, **options: Any) -> str:
    """Send a goal as an application does that does not have this package."""
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    if created_on is not None:
        body["CreatedOnUtc"] = created_on
    sent = system.app.send_task(
        "ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", argsrepr="<goal>", **options
    )
    return str(sent.id)


def time_of(system: System, delivery_id: str) -> datetime:
    """Return the time of a conversion as the API heard of it."""
    system.status_when(delivery_id, "delivered")
    (received,) = [one for one in system.api.requests if one.delivery_id == delivery_id]
    assert received.body is not None
    return datetime.fromisoformat(received.body["CreatedOnUtc"]).replace(tzinfo=UTC)


def counted(system: System) -> int:
    return statistics(system.app).undated


def letter_of(system: System, delivery_id: str) -> DeadLetter:
    with state_of(system) as (_gate, store):
        stored = store.get(delivery_id)
    assert stored is not None
    return stored.letter


def replayed(system: System, *delivery_ids: str) -> ReplayResult:
    with state_of(system) as (_gate, store):
        stored = [one for name in delivery_ids if (one := store.get(name))]
        return replay(system.app, store, stored)


@contextmanager
def state_of(system: System) -> Iterator[tuple[Gate, DeadLetterStore]]:
    settings = settings_of(system.app)
    with connect(settings) as client:
        yield Gate(settings, client), DeadLetterStore(client, Keys(settings.key_prefix))


def test_goals_that_waited_while_delivery_was_paused_have_the_time_of_their_sending(
    system: System,
) -> None:
    before = counted(system)
    with state_of(system) as (gate, _store):
        gate.pause()
    wait_until(lambda: "not taking goals" in system.worker.log, "the worker to pause")
    with_time = [
        send(system, timestamp=SECONDS),
        send(system, headers={"timestamp": SECONDS}),
        send(system, headers={"timestamp_in_ms": SECONDS * 1000}),
        send(system, headers={"sentry-task-enqueued-time": f"{SECONDS}.000000"}),
        send(system, headers={"headers": {"sentry-task-enqueued-time": f"{SECONDS}.000000"}}),
        send(system, format_created_on(SENT), timestamp=SECONDS - 60),
    ]
    assert (statistics(system.app).oldest_pending_seconds or 0) > 5 * 3600 - 60
    own_time = send(system, format_created_on(SENT))
    undated = send(system)
    resumed_at = datetime.now(UTC)
    with state_of(system) as (gate, _store):
        gate.resume()

    assert {time_of(system, one) for one in (*with_time, own_time)} == {SENT}
    assert time_of(system, undated) >= resumed_at
    assert counted(system) - before == 1


def test_the_time_of_receipt_stays_through_retries_and_letters(system: System) -> None:
    before = counted(system)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    system.api.script_for(lambda one: body["CustomerId"].encode() in one.raw, then=503)
    sent_at = datetime.now(UTC)
    sent = system.app.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks")
    system.status_when(sent.id, "dead")
    first, second = [one for one in system.api.requests if one.delivery_id == sent.id]
    assert first.body is not None
    created_on = first.body["CreatedOnUtc"]
    assert sent_at <= datetime.fromisoformat(created_on).replace(tzinfo=UTC) <= first.at
    assert second.body is not None
    assert second.body["CreatedOnUtc"] == created_on
    assert letter_of(system, sent.id).payload["CreatedOnUtc"] == created_on
    assert counted(system) - before == 1


def test_an_invalid_goal_keeps_its_time_in_its_letter_and_through_a_replay(
    system: System,
) -> None:
    broken = {"ninja_attempts": "three"}
    by_message = send(system, timestamp=SECONDS, headers=broken)
    by_receipt = send(system, headers=broken)
    by_producer = send(system, headers={**broken, "ninja_enqueued_at": SENT.isoformat()})
    own_time = send(system, format_created_on(SENT), headers=broken)
    letters = (by_message, by_receipt, by_producer, own_time)
    for one in letters:
        assert system.status_when(one, "dead").reason == "invalid"
    received_by = datetime.now(UTC)
    assert replayed(system, *letters).queued == 4
    assert {time_of(system, one) for one in (by_message, by_producer, own_time)} == {SENT}
    assert time_of(system, by_receipt) <= received_by


def test_an_invalid_letter_of_an_earlier_version_is_dated_by_its_enqueueing(
    system: System,
) -> None:
    letter = {
        "delivery_id": str(uuid.uuid4()),
        "reason": "invalid",
        "payload": {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())},
        "enqueued_at": SENT.isoformat(),
    }
    nobody_knows = {**letter, "delivery_id": str(uuid.uuid4()), "enqueued_at": None}
    with redis.Redis.from_url(system.environment["CELERY_BROKER_URL"]) as client:
        for one in (letter, nobody_knows):
            client.hset("ninja:dead", one["delivery_id"], json.dumps(one))
            client.zadd("ninja:dead:times", {one["delivery_id"]: 1})
    ids = (letter["delivery_id"], nobody_knows["delivery_id"])
    assert replayed(system, *ids) == ReplayResult(2, 1, 1, 0)
    assert time_of(system, ids[0]) == SENT


def test_a_goal_from_the_future_is_an_invalid_letter_that_waits_for_its_time(
    system: System,
) -> None:
    ahead = send(system, format_created_on(datetime.now(UTC) + timedelta(hours=3)))
    assert system.status_when(ahead, "dead").reason == "invalid"
    assert "5 minutes ahead" in letter_of(system, ahead).error
    assert replayed(system, ahead) == ReplayResult(1, 0, 1, 0)


def test_messages_of_celerys_first_protocol_have_their_times_too(system: System) -> None:
    before = counted(system)
    url = system.environment["CELERY_BROKER_URL"]
    old = Celery("old", broker=url, task_protocol=1, set_as_current=False)
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    options: list[dict[str, Any]] = [{"timestamp": SECONDS}, {}, {"countdown": 3600}]
    dated, undated, later = (
        old.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", **one).id
        for one in options
    )
    assert time_of(system, dated) == SENT
    assert time_of(system, undated) > SENT + timedelta(hours=4)
    parked = system.status_when(later, "parked")
    assert datetime.fromisoformat(parked.due_at or "") > datetime.now(UTC) + timedelta(minutes=50)
    assert counted(system) - before == 2

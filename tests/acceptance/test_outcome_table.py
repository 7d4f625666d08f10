"""Every row of the table of outcomes, over real sockets, as a person's scripts see it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from stack import wait_until

from ninja_tasks import enqueue_goal
from ninja_tasks.testing import Answer, CloseConnection, Hang

if TYPE_CHECKING:
    from conftest import System

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"

#: First answer; then what the second attempt, which the API takes, makes of the goal.
SENT_AGAIN = [
    *[pytest.param(Answer(status), False, id=f"{status}") for status in (408, 425, 429, 503)],
    *[pytest.param(Answer(status), True, id=f"{status}") for status in (500, 502, 504, 507, 599)],
    pytest.param(CloseConnection(), True, id="lost connection"),
    pytest.param(Hang(5), True, id="read timeout"),
]
REJECTED = [301, 302, 307, 400, 401, 403, 404, 405, 410, 413, 415, 422, 451]
#: Answers that use the goal up, with the number of attempts of a goal that has two.
USED_UP = [
    pytest.param(Answer(503), "exhausted", 2, False, id="503"),
    pytest.param(Answer(500), "exhausted", 2, True, id="500"),
    pytest.param(CloseConnection(), "exhausted", 2, True, id="lost connection"),
]


def enqueue(system: System, *answers: Any, then: Any = None, **options: Any) -> str:
    customer_id = str(uuid.uuid4())
    system.api.script_for(
        lambda one: one.body is not None and one.body.get("CustomerId") == customer_id,
        *answers,
        then=then,
    )
    return enqueue_goal(goal_id=GOAL_ID, customer_id=customer_id, app=system.app, **options)


def status_of(system: System, delivery_id: str, state: str) -> dict[str, Any]:
    system.status_when(delivery_id, state)
    status: dict[str, Any] = system.json_of("status", delivery_id)
    assert status["state"] == state
    return status


def listed(system: System, delivery_id: str) -> dict[str, Any]:
    lines = system.command("dead", "list", "--all", "--json").stdout.splitlines()
    (letter,) = [one for one in map(json.loads, lines) if one["delivery_id"] == delivery_id]
    return dict(letter)


def assert_one_time(system: System, delivery_id: str, attempts: int) -> None:
    received = [one for one in system.api.requests if one.delivery_id == delivery_id]
    assert len(received) == attempts
    assert len({one.raw for one in received}) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_is_delivered(system: System, status: int) -> None:
    delivery_id = enqueue(system, status)
    shown = status_of(system, delivery_id, "delivered")
    assert (shown["attempts"], shown["possible_duplicate"]) == (1, False)
    assert datetime.fromisoformat(shown["delivered_at"]).tzinfo == UTC
    assert_one_time(system, delivery_id, 1)


@pytest.mark.parametrize(("answer", "possible_duplicate"), SENT_AGAIN)
def test_a_goal_that_is_sent_again_says_whether_it_may_have_counted_twice(
    system: System, answer: Any, possible_duplicate: bool
) -> None:
    delivery_id = enqueue(system, answer)
    shown = status_of(system, delivery_id, "delivered")
    assert (shown["attempts"], shown["possible_duplicate"]) == (2, possible_duplicate)
    assert_one_time(system, delivery_id, 2)


@pytest.mark.parametrize("status", REJECTED)
def test_other_4xx_and_3xx_are_dead_at_once(system: System, status: int) -> None:
    delivery_id = enqueue(system, then=status)
    shown = status_of(system, delivery_id, "dead")
    assert (shown["reason"], shown["attempts"]) == ("rejected", 1)
    assert shown["possible_duplicate"] is False
    letter = listed(system, delivery_id)
    assert (letter["reason"], letter["status"], letter["attempts"]) == ("rejected", status, 1)
    assert_one_time(system, delivery_id, 1)


@pytest.mark.parametrize(("answer", "reason", "attempts", "possible_duplicate"), USED_UP)
def test_a_goal_whose_attempts_are_used_up_is_dead(
    system: System, answer: Any, reason: str, attempts: int, possible_duplicate: bool
) -> None:
    delivery_id = enqueue(system, then=answer)
    shown = status_of(system, delivery_id, "dead")
    assert (shown["reason"], shown["attempts"]) == (reason, attempts)
    assert shown["possible_duplicate"] is possible_duplicate
    letter = listed(system, delivery_id)
    assert (letter["attempts"], letter["reason"]) == (attempts, reason)
    assert letter["first_attempt_at"] < letter["last_attempt_at"]
    whole = system.json_of("dead", "show", delivery_id)
    assert len(whole["history"]) == attempts
    assert {line["phase"] for line in whole["history"]} <= {"send", "answer"}
    assert_one_time(system, delivery_id, attempts)


@pytest.mark.parametrize("answer", [Answer(500), CloseConnection(), Hang(5)], ids=type)
def test_a_doubt_is_a_dead_letter_where_the_caller_wants_that(system: System, answer: Any) -> None:
    delivery_id = enqueue(system, then=answer, on_unknown="dead_letter")
    shown = status_of(system, delivery_id, "dead")
    assert (shown["reason"], shown["attempts"]) == ("unknown", 1)
    assert shown["possible_duplicate"] is False
    assert listed(system, delivery_id)["reason"] == "unknown"
    assert_one_time(system, delivery_id, 1)


def test_a_goal_that_waits_for_its_next_attempt_is_parked_and_says_until_when(
    system: System,
) -> None:
    delivery_id = enqueue(system, Answer(500))
    customer_id = enqueue(system, Answer(429, retry_after=8))
    shown = status_of(system, customer_id, "parked")
    due_in = datetime.fromisoformat(shown["due_at"]) - datetime.now(UTC)
    assert 0 < due_in.total_seconds() <= 8
    assert (shown["attempts"], shown["delivered_at"], shown["reason"]) == (1, None, None)
    assert system.json_of("stats")["parked"] >= 1
    for one in (delivery_id, customer_id):
        system.status_when(one, "delivered")


def test_a_message_with_an_eta_is_parked_until_then(system: System) -> None:
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    sent = system.app.send_task(
        "ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", countdown=4
    )
    began = datetime.now(UTC)
    shown = status_of(system, sent.id, "parked")
    assert (shown["attempts"], shown["possible_duplicate"]) == (0, False)
    system.status_when(sent.id, "delivered")
    assert (datetime.now(UTC) - began).total_seconds() >= 3
    (received,) = [one for one in system.api.requests if one.delivery_id == sent.id]
    stamped = datetime.fromisoformat(received.body["CreatedOnUtc"]).replace(tzinfo=UTC)
    assert abs((stamped - began).total_seconds()) < 2


def test_a_goal_may_have_been_retried_however_often(system: System) -> None:
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    sent = system.app.send_task(
        "ninja_tasks.reach_goal", args=[body], queue="ninja_tasks", retries=5000
    )
    assert status_of(system, sent.id, "delivered")["attempts"] == 1


def test_an_eta_that_is_no_time_is_a_dead_letter(system: System) -> None:
    with system.app.producer_pool.acquire() as producer:
        delivery_id = str(uuid.uuid4())
        body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
        producer.publish(
            [[body], {}, {}],
            serializer="json",
            exchange="ninja_tasks",
            routing_key="ninja_tasks",
            headers={"id": delivery_id, "task": "ninja_tasks.reach_goal", "eta": "tomorrow"},
        )
    assert status_of(system, delivery_id, "dead")["reason"] == "invalid"


def test_a_pause_stops_delivery_and_resume_starts_it_again(system: System) -> None:
    assert system.command("pause").returncode == 0
    wait_until(lambda: "delivery is paused" in system.worker.log, "the worker to stop")
    delivery_id = enqueue_goal(goal_id=GOAL_ID, customer_id=uuid.uuid4(), app=system.app)

    def waiting() -> dict[str, Any] | None:
        # A worker may just have been asking for a message when it stopped; it parks that one.
        stats: dict[str, Any] = system.json_of("stats")
        return stats if stats["queued"] + stats["parked"] == 1 else None

    stats = wait_until(waiting, "the goal to wait")
    assert stats["paused"] is True
    assert stats["oldest_pending_seconds"] > 0
    assert system.json_of("status", delivery_id)["state"] in ("pending", "parked")
    assert system.api.requests == [] or delivery_id != system.api.requests[-1].delivery_id
    assert system.command("resume").returncode == 0
    system.status_when(delivery_id, "delivered")
    wait_until(lambda: "taking goals again" in system.worker.log, "the worker to say so")
    after = system.json_of("stats")
    assert after["paused"] is False
    assert set(after["latency_milliseconds"]) == {"p50", "p95", "p99"}


def test_doubts_are_counted(system: System) -> None:
    before = system.json_of("stats")["unknown"]
    system.status_when(enqueue(system, Answer(502)), "delivered")
    assert system.json_of("stats")["unknown"] == before + 1

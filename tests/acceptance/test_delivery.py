"""The main job, end to end: a real worker, a real broker, a real Sentry protocol, real sockets."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from stack import wait_until

from ninja_tasks import enqueue_goal, enqueue_goals, goal_status
from ninja_tasks.testing import Answer, CloseConnection, Hang, ReceivedGoal

if TYPE_CHECKING:
    from conftest import System

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
IP = "203.0.113.77"
SECRET = "a-value-that-is-nobodys-business"
ECHO = b'{"error": "an-excerpt-that-may-echo-data"}'


def enqueue(system: System, **arguments: Any) -> str:
    """Enqueue a goal that is full of personal data."""
    goal = {"goal_id": GOAL_ID, "customer_id": uuid.uuid4(), "ip": IP}
    goal |= {"user_params": {"segment": SECRET}, "revenue": 918273645546}
    return enqueue_goal(**goal | arguments, app=system.app)


def requests_for(system: System, delivery_id: str) -> list[ReceivedGoal]:
    return [one for one in system.api.requests if one.delivery_id == delivery_id]


def script(system: System, *answers: Any, then: Any = None) -> str:
    """Script answers for one goal and return the customer id that it must have."""
    customer_id = str(uuid.uuid4())
    system.api.script_for(
        lambda one: one.body is not None and one.body.get("CustomerId") == customer_id,
        *answers,
        then=then,
    )
    return customer_id


def assert_told_once_without_personal_data(
    system: System, delivery_id: str, *, reason: str, status: str, customer_id: str
) -> None:
    """The event of a later letter has come, so a second one of this goal would be there too."""
    wait_until(lambda: system.kent.events(delivery_id), f"Sentry to hear of {delivery_id}")
    system.let_sentry_hear()
    later = enqueue(system, customer_id=script(system, then=418))
    wait_until(lambda: system.kent.events(later), "Sentry to hear of a later letter")
    (event,) = system.kent.events(delivery_id)
    assert event["tags"]["reason"] == reason
    assert event["tags"]["status_code"] == status
    assert event["tags"]["delivery_id"] == delivery_id
    assert event["fingerprint"][:2] == ["ninja-dead-letter", reason]
    assert f"ninja-tasks dead show {delivery_id}" in json.dumps(event)
    for private in (IP, customer_id, SECRET, "918273645546", "an-excerpt"):
        assert private not in json.dumps(event)


def test_a_goal_is_delivered_as_the_api_documents_it(system: System) -> None:
    before = datetime.now(UTC)
    delivery_id = enqueue(system, page_params={"promo": "autumn"})
    after = datetime.now(UTC)
    status = system.status_when(delivery_id, "delivered")
    (received,) = requests_for(system, delivery_id)
    body = dict(received.body or {})
    created_on = datetime.fromisoformat(body.pop("CreatedOnUtc")).replace(tzinfo=UTC)
    assert before <= created_on <= after
    assert uuid.UUID(body.pop("CustomerId"))
    assert body == {
        "GoalId": GOAL_ID,
        "Ip": IP,
        "CustomUserScopeParams": {"segment": SECRET},
        "CustomPageScopeParams": {"promo": "autumn", "Revenue": "918273645546"},
    }
    assert status.attempts == 1
    assert status.possible_duplicate is False
    assert status.delivered_at is not None
    assert received.headers.get("User-Agent", "").startswith("ninja-tasks/")
    assert received.headers.get("Content-Type") == "application/json"
    assert received.headers.get("sentry-trace") is None
    assert received.headers.get("baggage") is None


@pytest.mark.parametrize(
    ("answer", "possible_duplicate"),
    [
        pytest.param(Answer(503), False, id="503"),
        pytest.param(Answer(429, retry_after=1), False, id="429 with Retry-After"),
        pytest.param(Answer(500), True, id="500"),
        pytest.param(CloseConnection(), True, id="connection closed without an answer"),
        pytest.param(Hang(5), True, id="read timeout"),
    ],
)
def test_a_goal_is_retried_with_the_time_of_its_enqueueing(
    system: System, answer: Any, possible_duplicate: bool
) -> None:
    customer_id = script(system, answer)
    before = datetime.now(UTC)
    delivery_id = enqueue(system, customer_id=customer_id)
    after = datetime.now(UTC)
    status = system.status_when(delivery_id, "delivered")
    first, second = requests_for(system, delivery_id)
    assert first.raw == second.raw
    created_on = datetime.fromisoformat(second.body["CreatedOnUtc"]).replace(tzinfo=UTC)
    assert before <= created_on <= after
    assert status.attempts == 2
    assert status.possible_duplicate is possible_duplicate


def test_retry_after_is_waited_for(system: System) -> None:
    delivery_id = enqueue(system, customer_id=script(system, Answer(429, retry_after=3)))
    system.status_when(delivery_id, "delivered")
    first, second = requests_for(system, delivery_id)
    assert second.monotonic - first.monotonic >= 3


def test_a_rejected_goal_is_a_dead_letter_at_once(system: System) -> None:
    system.let_sentry_hear()
    customer_id = script(system, then=Answer(400, body=ECHO))
    delivery_id = enqueue(system, customer_id=customer_id)
    status = system.status_when(delivery_id, "dead")
    assert (status.reason, status.attempts) == ("rejected", 1)
    assert len(requests_for(system, delivery_id)) == 1
    letter = system.json_of("dead", "show", delivery_id)
    assert letter["status"] == 400
    assert letter["excerpt"] == ECHO.decode()
    assert letter["payload"]["CustomerId"] == customer_id
    assert [line["outcome"] for line in letter["history"]] == ["rejected"]
    assert_told_once_without_personal_data(
        system, delivery_id, reason="rejected", status="400", customer_id=customer_id
    )


def test_a_redirect_is_not_followed(system: System) -> None:
    elsewhere = (("Location", f"{system.api.url}/elsewhere"),)
    delivery_id = enqueue(system, customer_id=script(system, then=Answer(302, headers=elsewhere)))
    assert system.status_when(delivery_id, "dead").reason == "rejected"
    assert len(requests_for(system, delivery_id)) == 1


def test_an_invalid_body_by_bare_send_task_is_a_dead_letter(system: System) -> None:
    customer_id = str(uuid.uuid4())
    system.let_sentry_hear()
    body = {"GoalId": GOAL_ID, "CustomerId": customer_id, "Ip": "999", "Page": {"a": SECRET}}
    sent = system.app.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks")
    status = system.status_when(sent.id, "dead")
    assert (status.reason, status.attempts) == ("invalid", 0)
    assert requests_for(system, sent.id) == []
    letter = system.json_of("dead", "show", sent.id)
    assert letter["payload"] == body
    assert "Ip" in letter["error"]
    assert "Page" in letter["error"]
    assert_told_once_without_personal_data(
        system, sent.id, reason="invalid", status="none", customer_id=customer_id
    )


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [([], {}), ([{}, {}], {}), ([{}], {"force": True}), (["not an object"], {}), ([None], {})],
    ids=["no argument", "two arguments", "a keyword argument", "a string", "null"],
)
def test_wrong_arguments_are_a_dead_letter(
    system: System, args: list[Any], kwargs: dict[str, Any]
) -> None:
    sent = system.app.send_task(
        "ninja_tasks.reach_goal", args=args, kwargs=kwargs, queue="ninja_tasks"
    )
    assert system.status_when(sent.id, "dead").reason == "invalid"


def test_exhausted_retries_are_a_dead_letter(system: System) -> None:
    system.let_sentry_hear()
    customer_id = script(system, then=503)
    delivery_id = enqueue(system, customer_id=customer_id)
    status = system.status_when(delivery_id, "dead")
    assert (status.reason, status.attempts) == ("exhausted", 2)
    assert len(requests_for(system, delivery_id)) == 2
    assert_told_once_without_personal_data(
        system, delivery_id, reason="exhausted", status="503", customer_id=customer_id
    )


def test_a_429_is_not_charged_to_the_goal(system: System) -> None:
    held = Answer(429, retry_after=1)
    delivery_id = enqueue(system, customer_id=script(system, held, held, held))
    assert system.status_when(delivery_id, "delivered").attempts == 4


def test_a_goal_in_doubt_is_a_dead_letter_where_the_caller_wants_that(system: System) -> None:
    customer_id = script(system, then=CloseConnection())
    delivery_id = enqueue(system, customer_id=customer_id, on_unknown="dead_letter")
    status = system.status_when(delivery_id, "dead")
    assert (status.reason, status.attempts, status.possible_duplicate) == ("unknown", 1, False)


def test_a_goal_without_a_time_is_stamped_once_by_the_worker(system: System) -> None:
    customer_id = script(system, 503)
    body = {"GoalId": GOAL_ID, "CustomerId": customer_id}
    before = datetime.now(UTC)
    sent = system.app.send_task("ninja_tasks.reach_goal", args=[body], queue="ninja_tasks")
    system.status_when(sent.id, "delivered")
    first, second = requests_for(system, sent.id)
    assert first.raw == second.raw
    created_on = datetime.fromisoformat(second.body["CreatedOnUtc"]).replace(tzinfo=UTC)
    assert before <= created_on <= datetime.now(UTC)


def test_an_old_goal_is_a_dead_letter(system: System) -> None:
    body = {"GoalId": GOAL_ID, "CustomerId": str(uuid.uuid4())}
    sent = system.app.send_task(
        "ninja_tasks.reach_goal",
        args=[body],
        queue="ninja_tasks",
        headers={"ninja_enqueued_at": "2020-01-01T00:00:00+00:00"},
    )
    assert system.status_when(sent.id, "dead").reason == "expired"
    assert requests_for(system, sent.id) == []


def test_replay_delivers_with_the_same_id_and_time_and_empties_the_list(system: System) -> None:
    system.command("dead", "discard", "--all", "--yes")
    customer_id = script(system, Answer(400), Answer(500), then=Answer(200))
    delivery_id = enqueue(system, customer_id=customer_id)
    system.status_when(delivery_id, "dead")
    (listed,) = map(json.loads, system.command("dead", "list", "--json").stdout.splitlines())
    assert listed["delivery_id"] == delivery_id
    planned = system.json_of("dead", "replay", "--all", "--dry-run")
    assert planned == {"plan": True, "matched": 1, "queued": 1, "skipped": 0, "failed": 0}
    replayed = system.json_of("dead", "replay", "--all", "--yes")
    assert replayed == {"plan": False, "matched": 1, "queued": 1, "skipped": 0, "failed": 0}
    status = system.status_when(delivery_id, "delivered")
    assert len({one.raw for one in requests_for(system, delivery_id)}) == 1
    assert status.attempts == 3
    assert status.possible_duplicate is True
    assert system.command("dead", "list", "--json").stdout == ""


def test_replay_skips_what_is_still_invalid(system: System) -> None:
    system.command("dead", "discard", "--all", "--yes")
    sent = system.app.send_task("ninja_tasks.reach_goal", args=[{}], queue="ninja_tasks")
    system.status_when(sent.id, "dead")
    replayed = system.json_of("dead", "replay", sent.id, "--yes")
    assert replayed == {"plan": False, "matched": 1, "queued": 0, "skipped": 1, "failed": 0}
    assert goal_status(sent.id, app=system.app).state == "dead"


def test_many_goals_are_each_delivered_once(system: System) -> None:
    goals = [{"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(1000)]
    ids = enqueue_goals(goals, app=system.app).delivery_ids
    wait_until(
        lambda: set(ids) <= {one.delivery_id for one in system.api.delivered}, "1000 deliveries"
    )
    arrived = [one.delivery_id for one in system.api.delivered if one.delivery_id in set(ids)]
    assert sorted(arrived) == sorted(ids)


def test_the_log_of_the_worker_holds_no_personal_data(system: System) -> None:
    delivered = enqueue(system, customer_id="11111111-2222-3333-4444-555555555555")
    system.status_when(delivered, "delivered")
    customer_id = script(system, 503, then=400)
    died = enqueue(system, customer_id=customer_id)
    system.status_when(died, "dead")
    wait_until(lambda: f"{died}] raised expected" in system.worker.log, "the end of the task")
    log = system.worker.log
    for private in (
        IP,
        SECRET,
        "11111111-2222-3333-4444-555555555555",
        customer_id,
        "918273645546",
    ):
        assert private not in log

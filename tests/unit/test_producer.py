"""Producing: what lies on the queue, and what a broker that is away means."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from stack import clean_environment
from unit.bad_goals import CUSTOMER_ID, GOAL_ID, GOOD

from ninja_tasks import (
    InvalidGoal,
    PublishError,
    delivery_id_for,
    enqueue_goal,
    enqueue_goals,
)
from ninja_tasks.producer import KEY_NAMESPACE


@pytest.fixture
def app() -> Iterator[Celery]:
    shop = Celery("shop", broker="memory://", set_as_current=False)
    yield shop
    taken(shop)


def taken(app: Celery) -> list[dict[str, Any]]:
    """Take every message from the queue."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        return [channel._get("ninja_tasks") for _ in range(channel._size("ninja_tasks"))]


def body_of(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


def test_a_message_is_a_plain_task_message_with_the_body_of_the_api(app: Celery) -> None:
    before = datetime.now(UTC)
    delivery_id = enqueue_goal(**GOOD, revenue=12350, on_unknown="dead_letter", app=app)
    (message,) = taken(app)
    headers = message["headers"]
    (goal,), kwargs, _ = body_of(message)
    assert (headers["task"], headers["id"], kwargs) == ("ninja_tasks.reach_goal", delivery_id, {})
    created_on = datetime.fromisoformat(goal.pop("CreatedOnUtc")).replace(tzinfo=UTC)
    assert before <= created_on <= datetime.now(UTC)
    assert goal == {
        "GoalId": GOAL_ID,
        "CustomerId": CUSTOMER_ID,
        "CustomPageScopeParams": {"Revenue": "12350"},
    }
    assert datetime.fromisoformat(headers["ninja_enqueued_at"]) == created_on
    assert headers["ninja_on_unknown"] == "dead_letter"
    assert CUSTOMER_ID not in json.dumps(headers)
    assert "12350" not in json.dumps(headers)


def test_a_goal_without_policy_leaves_it_to_the_worker(app: Celery) -> None:
    enqueue_goal(**GOOD, app=app)
    (message,) = taken(app)
    assert "ninja_on_unknown" not in message["headers"]


def test_the_message_is_json_whatever_the_application_uses(app: Celery) -> None:
    app.conf.task_serializer = "pickle"
    enqueue_goal(**GOOD, app=app)
    (message,) = taken(app)
    assert message["content-type"] == "application/json"


def test_an_application_that_creates_no_queues_can_enqueue(app: Celery) -> None:
    app.conf.task_create_missing_queues = False
    enqueue_goal(**GOOD, app=app)
    assert len(taken(app)) == 1


def test_a_bare_send_task_lands_on_the_same_queue(app: Celery) -> None:
    app.send_task("ninja_tasks.reach_goal", args=[{}], queue="ninja_tasks")
    assert len(taken(app)) == 1


def test_the_same_goal_and_key_have_the_same_id_anywhere(app: Celery) -> None:
    ids = {
        enqueue_goal(**GOOD, key="order-17", app=app),
        enqueue_goal(**{**GOOD, "goal_id": GOAL_ID.upper()}, key="order-17", app=app),
        delivery_id_for(uuid.UUID(GOAL_ID), "order-17"),
        str(uuid.uuid5(KEY_NAMESPACE, f"{GOAL_ID}:order-17")),
    }
    assert len(ids) == 1
    assert delivery_id_for(GOAL_ID, "order-18") not in ids
    assert delivery_id_for(CUSTOMER_ID, "order-17") not in ids


def test_goals_without_a_key_have_ids_of_their_own(app: Celery) -> None:
    assert enqueue_goal(**GOOD, app=app) != enqueue_goal(**GOOD, app=app)


def test_many_goals_are_read_batch_by_batch_and_sent_in_order(app: Celery) -> None:
    sent_when_read = []

    def goals() -> Iterator[dict[str, Any]]:
        for number in range(5):
            with app.connection_for_read() as connection:
                sent_when_read.append(connection.default_channel._size("ninja_tasks"))
            yield {**GOOD, "key": str(number)}

    result = enqueue_goals(goals(), app=app, batch_size=2)
    assert sent_when_read == [0, 0, 2, 2, 4]
    assert result.delivery_ids == [delivery_id_for(GOAL_ID, str(number)) for number in range(5)]
    assert [message["headers"]["id"] for message in taken(app)] == result.delivery_ids


def test_an_invalid_goal_stops_its_batch_and_tells_what_was_sent(app: Celery) -> None:
    goals = [{**GOOD, "key": str(number)} for number in range(5)]
    goals[3]["ip"] = "nowhere"
    with pytest.raises(InvalidGoal) as caught:
        enqueue_goals(goals, app=app, batch_size=2)
    assert caught.value.index == 3
    assert list(caught.value.delivery_ids) == [delivery_id_for(GOAL_ID, n) for n in "01"]
    assert len(taken(app)) == 2


def test_invalid_goals_can_be_collected(app: Celery) -> None:
    result = enqueue_goals([GOOD, {}, GOOD, {**GOOD, "ip": ""}], app=app, on_invalid="collect")
    assert len(taken(app)) == len(result.delivery_ids) == 2
    assert [index for index, _ in result.invalid] == [1, 3]
    assert result.invalid[1][1].keys() == {"Ip"}


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"on_invalid": "ignore"}])
def test_wrong_options_are_refused(app: Celery, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        enqueue_goals([GOOD], app=app, **options)


def test_a_broker_that_is_away_is_told_without_its_password() -> None:
    app = Celery("shop", broker="redis://:geheim@127.0.0.1:1/0", set_as_current=False)
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_step": 0}
    with pytest.raises(PublishError) as one:
        enqueue_goal(**GOOD, key="1", app=app)
    with pytest.raises(OperationalError) as many:
        enqueue_goals([{**GOOD, "key": "1"}], app=app)
    assert isinstance(many.value, PublishError)
    for error in (one.value, many.value):
        assert list(error.uncertain_ids) == [delivery_id_for(GOAL_ID, "1")]
        assert list(error.delivery_ids) == []
        assert "geheim" not in str(error)


def in_a_process_of_its_own(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"GOOD = {GOOD!r}\nimport ninja_tasks\n{code}"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_current_application_is_used() -> None:
    code = "import celery; celery.Celery('shop', broker='memory://')\n"
    assert "sent" in in_a_process_of_its_own(
        code + "ninja_tasks.enqueue_goal(**GOOD); print('sent')"
    )


def test_without_any_application_the_remedy_is_told() -> None:
    output = in_a_process_of_its_own("ninja_tasks.enqueue_goal(**GOOD)")
    assert "ConfigurationError" in output
    assert "CELERY_BROKER_URL" in output


def test_enqueueing_loads_neither_the_http_client_nor_sentry() -> None:
    code = """
import sys, celery
app = ninja_tasks.install(celery.Celery('shop', broker='memory://'))
ninja_tasks.enqueue_goal(**GOOD)
print(sorted({'requests', 'sentry_sdk', 'marshmallow'} & set(sys.modules)))
"""
    assert in_a_process_of_its_own(code) == "[]\n"

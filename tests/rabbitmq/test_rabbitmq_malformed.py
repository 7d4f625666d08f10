"""Whatever lies on RabbitMQ's queue: the worker lives, and what it cannot take is a dead letter."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator

import amqp
import pytest
import redis
from celery import Celery
from malformed import CASES, GOAL, Parts
from stack import Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goal, goal_status, install
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, embedded_server


@pytest.fixture(scope="module")
def state() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


@pytest.fixture(scope="module", params=["threads", "prefork"])
def shop(
    request: pytest.FixtureRequest,
    rabbitmq: str,
    state: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Celery]:
    with FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=rabbitmq,
            NINJA_REDIS_URL=state.url,
            NINJA_API_URL=api.url,
            NINJA_RATE_LIMIT="none",
        )
        app = install(Celery("shop", broker=rabbitmq, set_as_current=False))
        app.conf.ninja_redis_url = state.url
        with Worker(tmp_path_factory.mktemp("worker"), environment, pool=request.param):
            yield app


@pytest.mark.parametrize("name", CASES)
def test_a_message_that_celery_cannot_take_becomes_a_dead_letter(
    shop: Celery, state: EmbeddedServer, rabbitmq: str, name: str
) -> None:
    parts = Parts()
    CASES[name](parts)
    with redis.Redis.from_url(state.url, decode_responses=True) as client:
        store = DeadLetterStore(client, Keys("ninja:"))
        before = {one.letter.delivery_id for one in store.newest()}
        publish(rabbitmq, parts)

        def new() -> list[DeadLetter]:
            found = [one.letter for one in store.newest()]
            return [letter for letter in found if letter.delivery_id not in before]

        (letter,) = wait_until(new, "a letter")
    assert letter.reason == "malformed"
    assert base64.b64decode(letter.raw or "") == parts.body
    good = enqueue_goal(goal_id=GOAL["GoalId"], customer_id=uuid.uuid4(), app=shop)
    wait_until(lambda: goal_status(good, app=shop).state == "delivered", "the next goal")


def publish(url: str, parts: Parts) -> None:
    """Publish as a program without Celery would."""
    host = url.rpartition("@")[2].strip("/")
    with amqp.Connection(host) as connection:
        message = amqp.Message(
            parts.body,
            content_type=parts.content_type,
            content_encoding=parts.content_encoding,
            application_headers=parts.headers,
        )
        connection.channel().basic_publish(message, "ninja_tasks", "ninja_tasks")

"""The preflight on a real RabbitMQ: what is declared, and what becomes of what it gives up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue
from stack import free_port

from ninja_tasks import install
from ninja_tasks.preflight import Finding, preflight, report_at_start
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja

QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 5}


@pytest.fixture
def app(
    rabbitmq: str, ninja_redis: EmbeddedServer, fake_sales_ninja: FakeSalesNinja
) -> Iterator[Celery]:
    """An application on a broker without the queue."""
    shop = install(Celery("shop", broker=rabbitmq, set_as_current=False))
    shop.conf.update(ninja_redis_url=ninja_redis.url, ninja_api_url=fake_sales_ninja.url)
    remove(rabbitmq)
    yield shop
    remove(rabbitmq)


def remove(broker_url: str) -> None:
    with Connection(broker_url) as connection:
        connection.default_channel.queue_delete("ninja_tasks")
        connection.default_channel.exchange_delete("given_up")


def queue(**arguments: Any) -> Queue:
    return Queue(
        "ninja_tasks",
        Exchange("ninja_tasks"),
        routing_key="ninja_tasks",
        queue_arguments=arguments,
    )


def declare(app: Celery, one: Queue | Exchange) -> None:
    with app.connection_for_write() as connection:
        one(connection.default_channel).declare()


def findings(app: Celery) -> dict[str, Finding]:
    return {one.name: one for one in preflight(app, ask_workers=False)}


def test_a_queue_that_nobody_has_used_is_well_and_is_not_made(app: Celery) -> None:
    for _ in range(2):
        found = findings(app)
        assert (found["broker"].level, found["queue"].level) == ("ok", "ok")
        assert "not there yet" in found["queue"].message
        assert "guest" not in f"{found}"


def test_a_queue_without_a_dead_letter_exchange_is_a_warning(app: Celery) -> None:
    declare(app, queue())
    found = findings(app)
    assert "as this application declares it" in found["queue"].message
    assert found["queue.dead_letters"].level == "warning"
    assert "policies cannot be seen" in found["queue.dead_letters"].message


def test_a_delivery_limit_without_a_dead_letter_exchange_is_a_fault(app: Celery) -> None:
    app.conf.task_queues = [queue(**QUORUM)]
    found = findings(app)["queue.dead_letters"]
    assert found.level == "fault"
    assert "more than 5 times" in found.message


def test_a_dead_letter_exchange_must_exist(app: Celery) -> None:
    app.conf.task_queues = [queue(**QUORUM, **{"x-dead-letter-exchange": "given_up"})]
    assert findings(app)["queue.dead_letters"].level == "fault"
    declare(app, Exchange("given_up", "fanout"))
    assert findings(app)["queue.dead_letters"].level == "ok"


def test_the_default_exchange_always_exists(app: Celery) -> None:
    app.conf.task_queues = [queue(**{"x-dead-letter-exchange": ""})]
    assert findings(app)["queue.dead_letters"].level == "ok"


def test_a_queue_with_other_arguments_is_a_fault(app: Celery) -> None:
    declare(app, queue(**QUORUM))
    assert findings(app)["queue"].level == "fault"
    app.conf.task_queues = [queue(**QUORUM)]
    app.amqp.__dict__.pop("queues", None)
    assert findings(app)["queue"].level == "ok"


def test_a_queue_that_another_connection_has_for_itself_is_a_warning(app: Celery) -> None:
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare("ninja_tasks", exclusive=True, auto_delete=False)
        found = findings(app)["queue"]
    assert found.level == "warning"
    assert "code 405" in found.message


def test_a_rabbitmq_that_is_away_is_a_fault(app: Celery) -> None:
    app.conf.broker_url = f"amqp://guest:geheim@127.0.0.1:{free_port()}//"
    found = findings(app)["broker"]
    assert found.level == "fault"
    assert "geheim" not in found.message


def test_a_wrong_password_is_a_fault(app: Celery, rabbitmq: str) -> None:
    app.conf.broker_url = rabbitmq.replace("guest:guest", "guest:geheim")
    found = findings(app)["broker"]
    assert found.level == "fault"
    assert "geheim" not in found.message


def test_what_redis_as_a_broker_needs_is_not_asked_of_rabbitmq(app: Celery) -> None:
    app.conf.update(ninja_transport="stock", worker_enable_remote_control=False)
    assert not {"transport", "visibility_timeout", "remote_control"} & findings(app).keys()


def test_an_application_whose_own_messages_are_not_confirmed_is_a_fault(app: Celery) -> None:
    found = findings(app)["broker.confirmations"]
    assert found.level == "fault"
    assert "bare send_task" in found.message
    assert "confirm_publish" in str(found.remedy)
    app.conf.broker_transport_options = {"confirm_publish": True}
    assert findings(app)["broker.confirmations"].level == "ok"


def test_what_others_send_keeps_no_worker_from_starting(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.ninja_strict = True
    with caplog.at_level("WARNING"):
        report_at_start(app)
    assert "dead_letters" in caplog.text
    assert "confirmations" not in caplog.text


def test_the_application_of_this_package_sends_nothing_by_itself(app: Celery) -> None:
    app.main = "ninja_tasks"
    assert findings(app)["broker.confirmations"].level == "ok"

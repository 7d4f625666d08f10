"""RabbitMQ confirms what this package publishes, and what it does not confirm is an error."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from dropping_proxy import DroppingProxy
from kombu import Exchange, Queue
from rabbitmq_node import Node
from stack import in_a_child, wait_until
from unit.bad_goals import GOAL_ID, GOOD

from ninja_tasks import PublishError, delivery_id_for, enqueue_goal, enqueue_goals, install

TIMEOUT_SECONDS = 2.0
PATIENCE_SECONDS = 3.0


def application(broker: str, **settings: Any) -> Celery:
    app = install(Celery("shop", broker=broker, set_as_current=False))
    usual = {"ninja_publish_timeout_seconds": TIMEOUT_SECONDS}
    app.conf.update(usual | {"ninja_redis_url": "redis://localhost:1/0"} | settings)
    return app


@pytest.fixture(autouse=True)
def empty_queue(rabbitmq: str) -> Iterator[None]:
    remove_queue(rabbitmq)
    yield
    remove_queue(rabbitmq)


def remove_queue(broker: str) -> None:
    with Celery(broker=broker, set_as_current=False).connection_for_write() as connection:
        connection.default_channel.queue_delete("ninja_tasks")


def queued(broker: str) -> int:
    with Celery(broker=broker, set_as_current=False).connection_for_write() as connection:
        declared = connection.default_channel.queue_declare("ninja_tasks", passive=True)
        return int(declared.message_count)


def declare(broker: str, **arguments: Any) -> None:
    queue = Queue("ninja_tasks", Exchange("ninja_tasks"), "ninja_tasks", queue_arguments=arguments)
    with Celery(broker=broker, set_as_current=False).connection_for_write() as connection:
        queue(connection.default_channel).declare()


def one(app: Celery) -> None:
    enqueue_goal(**GOOD, key="1", app=app)


def many(app: Celery) -> None:
    enqueue_goals([{**GOOD, "key": "1"}], app=app)


WAYS = pytest.mark.parametrize("enqueue", [one, many])


def refusal(enqueue: Callable[[Celery], None], app: Celery) -> PublishError:
    began = time.monotonic()
    with pytest.raises(PublishError) as caught:
        enqueue(app)
    assert time.monotonic() - began < TIMEOUT_SECONDS + PATIENCE_SECONDS
    assert list(caught.value.uncertain_ids) == [delivery_id_for(GOAL_ID, "1")]
    return caught.value


@WAYS
def test_a_goal_whose_confirmation_is_lost_is_uncertain(
    rabbitmq: str, enqueue: Callable[[Celery], None]
) -> None:
    with DroppingProxy(urlsplit(rabbitmq).port or 0) as proxy:
        app = application(f"amqp://guest:guest@127.0.0.1:{proxy.port}//")
        enqueue_goal(**GOOD, app=app)
        proxy.swallow_answers()
        refusal(enqueue, app)
        # It arrived, which nobody could know: that is what uncertain means.
        wait_until(lambda: queued(rabbitmq) >= 2, "the goal")
        proxy.pass_answers()
        enqueue(app)


def test_a_batch_waits_no_longer_for_a_silent_broker_than_a_goal(rabbitmq: str) -> None:
    with DroppingProxy(urlsplit(rabbitmq).port or 0) as proxy:
        app = application(f"amqp://guest:guest@127.0.0.1:{proxy.port}//")
        enqueue_goal(**GOOD, app=app)
        proxy.swallow_answers()
        goals = [{**GOOD, "key": str(number)} for number in range(300)]
        began = time.monotonic()
        with pytest.raises(PublishError) as caught:
            enqueue_goals(goals, app=app)
        took = time.monotonic() - began
    assert len(caught.value.uncertain_ids) == len(goals)
    # A batch that is confirmed bit by bit may take three times as long.
    assert took < 2 * TIMEOUT_SECONDS + PATIENCE_SECONDS


@WAYS
def test_a_queue_that_was_deleted_is_made_again_and_no_goal_vanishes(
    rabbitmq: str, enqueue: Callable[[Celery], None]
) -> None:
    app = application(rabbitmq)
    enqueue(app)
    remove_queue(rabbitmq)
    enqueue(app)
    assert queued(rabbitmq) == 1


@WAYS
def test_a_queue_that_refuses_more_is_an_error(
    rabbitmq: str, enqueue: Callable[[Celery], None]
) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    declare(rabbitmq, **arguments)
    queue = Queue("ninja_tasks", Exchange("ninja_tasks"), "ninja_tasks", queue_arguments=arguments)
    app = application(rabbitmq, task_queues=[queue])
    enqueue_goal(**GOOD, app=app)
    assert "refused" in str(refusal(enqueue, app))


@WAYS
def test_a_queue_with_other_arguments_is_an_error_that_says_so(
    rabbitmq: str, enqueue: Callable[[Celery], None]
) -> None:
    declare(rabbitmq, **{"x-queue-type": "quorum"})
    assert "PRECONDITION_FAILED" in str(refusal(enqueue, application(rabbitmq)))


@WAYS
def test_a_wrong_password_is_an_error_that_does_not_show_it(
    rabbitmq: str, enqueue: Callable[[Celery], None]
) -> None:
    app = application(rabbitmq.replace("guest:guest", "guest:geheim"))
    text = str(refusal(enqueue, app))
    assert "ACCESS_REFUSED" in text
    assert "geheim" not in text


def test_goals_of_many_threads_and_of_a_large_batch_are_all_confirmed(rabbitmq: str) -> None:
    app = application(rabbitmq, ninja_publish_timeout_seconds=30)
    with ThreadPoolExecutor(12) as pool:
        ids = list(pool.map(lambda _: enqueue_goal(**GOOD, app=app), range(120)))
    ids += enqueue_goals((GOOD for _ in range(1500)), app=app).delivery_ids
    assert queued(rabbitmq) == len(set(ids)) == 1620


def test_events_of_sent_tasks_are_no_confirmations(rabbitmq: str) -> None:
    app = application(rabbitmq, task_send_sent_event=True)
    ids = [enqueue_goal(**GOOD, app=app) for _ in range(20)]
    assert queued(rabbitmq) == len(ids)


def test_the_first_of_several_addresses_may_be_dead(rabbitmq: str) -> None:
    app = application(f"amqp://guest:guest@127.0.0.1:1//;{rabbitmq}")
    one(app)
    many(app)
    assert queued(rabbitmq) == 2


def test_a_forked_process_leaves_the_connections_of_its_parent_open(
    rabbitmq_node: Node,
) -> None:
    def connections() -> set[str]:
        return set(rabbitmq_node.run("rabbitmqctl", "list_connections", "pid").split()) - {"pid"}

    gc.collect()
    wait_until(lambda: not connections(), "those of other tests to be closed")
    app = application(rabbitmq_node.url)
    one(app)
    before = connections()
    in_a_child(lambda: [one(app) for _ in range(20)])
    one(app)
    assert before <= connections()
    assert queued(rabbitmq_node.url) == 22


def test_the_applications_own_producers_do_not_wait_for_confirmations(rabbitmq: str) -> None:
    app = application(rabbitmq)
    one(app)
    with app.producer_pool.acquire(block=True) as producer:
        assert not producer.channel.connection.confirm_publish
        assert not producer.channel.events["basic_ack"]
    app.send_task("ninja_tasks.reach_goal", args=[{}])
    wait_until(lambda: queued(rabbitmq) == 2, "the application's own message")


def test_an_application_that_asks_for_confirmations_itself_can_enqueue(rabbitmq: str) -> None:
    app = application(rabbitmq, broker_transport_options={"confirm_publish": True})
    one(app)
    many(app)
    assert queued(rabbitmq) == 2

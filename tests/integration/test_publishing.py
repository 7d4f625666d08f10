"""Publishing to a broker in trouble: it ends in time, it says what is uncertain, it recovers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from dropping_proxy import DroppingProxy
from kombu import Producer
from stack import clean_environment, free_port, in_a_child, wait_until
from unit.bad_goals import GOAL_ID, GOOD

from ninja_tasks import (
    ConfigurationError,
    PublishError,
    delivery_id_for,
    enqueue_goal,
    enqueue_goals,
)
from ninja_tasks.testing import EmbeddedServer, embedded_server

TIMEOUT_SECONDS = 1.0
#: Beyond the time that a call may take: the machine is busy.
PATIENCE_SECONDS = 2.0


def application(broker: str, **settings: Any) -> Celery:
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(ninja_publish_timeout_seconds=TIMEOUT_SECONDS, **settings)
    return app


def one(app: Celery) -> None:
    enqueue_goal(**GOOD, key="1", app=app)


def many(app: Celery) -> None:
    enqueue_goals([{**GOOD, "key": "1"}], app=app)


def ids_of(count: int) -> list[str]:
    return [delivery_id_for(GOAL_ID, str(number)) for number in range(count)]


def goals(count: int) -> list[dict[str, Any]]:
    return [{**GOOD, "key": str(number)} for number in range(count)]


WAYS = pytest.mark.parametrize("enqueue", [one, many])


def refusal(enqueue: Callable[[Celery], None], app: Celery) -> PublishError:
    """Return the error of a call that must end in time."""
    began = time.monotonic()
    with pytest.raises(PublishError) as caught:
        enqueue(app)
    assert time.monotonic() - began < TIMEOUT_SECONDS + PATIENCE_SECONDS
    assert list(caught.value.uncertain_ids) == [delivery_id_for(GOAL_ID, "1")]
    assert list(caught.value.delivery_ids) == []
    assert "geheim" not in str(caught.value)
    return caught.value


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def queued(server: EmbeddedServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.llen("ninja_tasks"))


@WAYS
@pytest.mark.parametrize("scheme", ["redis", "amqp", "sentinel"])
def test_a_broker_that_accepts_and_never_answers_is_an_error_in_time(
    silent: int, scheme: str, enqueue: Callable[[Celery], None]
) -> None:
    app = application(f"{scheme}://:geheim@127.0.0.1:{silent}//")
    refusal(enqueue, app)


@WAYS
def test_a_name_that_is_not_resolved_is_an_error_in_time(
    monkeypatch: pytest.MonkeyPatch, enqueue: Callable[[Celery], None]
) -> None:
    resolved = threading.Event()

    def no_answer(*args: Any, **options: Any) -> Any:
        resolved.wait()
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    try:
        assert "no connection to the broker in time" in str(
            refusal(enqueue, application("amqp://:geheim@broker.example//"))
        )
    finally:
        resolved.set()


@WAYS
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_down_is_an_error_soon(
    scheme: str, enqueue: Callable[[Celery], None]
) -> None:
    app = application(f"{scheme}://:geheim@127.0.0.1:{free_port()}//")
    assert "Connection refused" in str(refusal(enqueue, app))


@WAYS
def test_a_frozen_redis_is_an_error_in_time_and_no_late_answer_is_taken_for_the_next(
    server: EmbeddedServer, enqueue: Callable[[Celery], None]
) -> None:
    app = application(server.url)
    enqueue_goal(**GOOD, app=app)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        refusal(enqueue, app)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    before = queued(server)
    enqueue(app)
    assert queued(server) == before + 1


@WAYS
def test_a_redis_that_refuses_writes_says_why_and_shows_nothing_of_the_goal(
    server: EmbeddedServer, enqueue: Callable[[Celery], None]
) -> None:
    app = application(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.set("filling", b"x" * 2_000_000)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
    text = str(refusal(enqueue, app))
    assert "used memory" in text
    assert "LPUSH" not in text


def test_a_redis_that_refuses_writes_for_a_while_gives_each_thread_its_answer(
    server: EmbeddedServer,
) -> None:
    app = application(server.url, task_publish_retry=False)
    app.conf.ninja_publish_timeout_seconds = 30
    taken: list[str] = []
    refused: list[PublishError] = []

    def enqueue(number: int) -> None:
        if number == 40:
            with redis.Redis.from_url(server.url) as client:
                client.config_set("min-replicas-to-write", "1")
        try:
            taken.append(enqueue_goal(**GOOD, app=app))
        except PublishError as error:
            refused.append(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enqueue, range(100)))
    assert len(taken) == queued(server) >= 30
    assert len(refused) == 100 - len(taken)
    assert {str(error) for error in refused if "good replicas" not in str(error)} == set()


def test_a_restart_of_the_broker_between_two_goals_is_not_noticed(server: EmbeddedServer) -> None:
    app = application(server.url, task_publish_retry=False)
    with ThreadPoolExecutor(8) as pool:
        ready = threading.Barrier(8)

        def enqueue(_: int) -> None:
            ready.wait()
            for _ in range(10):
                one(app)

        list(pool.map(enqueue, range(8)))
        server.stop()
        server.start()
        list(pool.map(lambda _: one(app), range(8)))
    assert queued(server) >= 8


def test_more_threads_than_connections_wait_no_longer_than_one(silent: int) -> None:
    app = application(f"redis://127.0.0.1:{silent}/0", broker_pool_limit=2)
    began = time.monotonic()

    def enqueue(_: int) -> PublishError:
        with pytest.raises(PublishError) as caught:
            one(app)
        return caught.value

    with ThreadPoolExecutor(20) as pool:
        errors = list(pool.map(enqueue, range(20)))
    assert time.monotonic() - began < TIMEOUT_SECONDS + PATIENCE_SECONDS
    assert any("broker_pool_limit" in str(error) for error in errors)


def test_many_threads_share_a_few_connections(server: EmbeddedServer) -> None:
    app = application(server.url, broker_pool_limit=3)
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda _: enqueue_goal(**GOOD, app=app), range(400)))
    assert len(set(ids)) == queued(server) == 400
    with redis.Redis.from_url(server.url) as client:
        # kombu has two for each: one of them only looks whether Redis answers.
        assert len(client.client_list()) <= 2 * 3 + 1


@pytest.mark.parametrize("pool_limit", [0, None])
def test_an_application_without_a_pool_keeps_no_connection(
    server: EmbeddedServer, pool_limit: int | None
) -> None:
    app = application(server.url, broker_pool_limit=pool_limit)
    one(app)
    with redis.Redis.from_url(server.url) as client:
        assert len(client.client_list()) == 1


def test_a_forked_process_has_connections_of_its_own_and_closes_none_of_its_parents(
    server: EmbeddedServer,
) -> None:
    app = application(server.url)
    one(app)
    before = client_addresses(server)
    in_a_child(lambda: [one(app) for _ in range(50)])
    for _ in range(50):
        one(app)
    assert queued(server) == 101
    assert client_addresses(server) == before


def client_addresses(server: EmbeddedServer) -> set[str]:
    with redis.Redis.from_url(server.url) as client:
        own = client.client_info()["addr"]
        return {one["addr"] for one in client.client_list()} - {own}


def test_the_end_of_a_tasks_time_is_no_error_of_the_broker_and_leaves_no_connection_in_use(
    silent: int,
) -> None:
    app = application(f"redis://127.0.0.1:{silent}/0", broker_pool_limit=1)

    def over(*args: Any) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_SECONDS / 4)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            one(app)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: "in use" not in str(refusal(one, app)), "the connection to be free")


def test_a_process_that_is_ending_can_still_enqueue(server: EmbeddedServer) -> None:
    code = f"""
import atexit, celery, ninja_tasks
app = celery.Celery("shop", broker="{server.url}", changes={{"broker_pool_limit": 0}})
ninja_tasks.enqueue_goal(**{GOOD!r})
atexit.register(lambda: ninja_tasks.enqueue_goal(**{GOOD!r}))
"""
    subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=True)
    assert queued(server) == 2


def test_an_enqueue_that_interrupts_another_goes_its_own_way(server: EmbeddedServer) -> None:
    app = application(server.url)

    def interrupt(*args: Any) -> None:
        one(app)
        # Not at a fixed rate: on a slow machine the interruptions would interrupt each other.
        signal.setitimer(signal.ITIMER_REAL, 0.002)

    # The first one imports what it needs, which nothing may interrupt.
    one(app)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        # Of each thousand, several are interrupted while they take or give back a connection.
        for _ in range(1000):
            one(app)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert queued(server) > 1001


def test_a_wrong_password_is_an_error_that_does_not_show_it(server: EmbeddedServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "something")
    app = application(server.url.replace("redis://", "redis://:geheim@"))
    assert "password" in str(refusal(one, app))


@WAYS
@pytest.mark.parametrize(
    "address", ["reddis://:geheim@one.example/0", "redis://one.example:geheim"]
)
def test_an_address_that_cannot_be_used_says_what_to_correct(
    address: str, enqueue: Callable[[Celery], None]
) -> None:
    with pytest.raises(ConfigurationError, match="correct CELERY_BROKER_URL") as caught:
        enqueue(application(address))
    assert "geheim" not in str(caught.value)


def test_a_call_with_several_batches_names_what_was_sent_before(server: EmbeddedServer) -> None:
    app = application(server.url)

    def goals_until_it_is_down() -> Iterator[dict[str, Any]]:
        for number in range(6):
            if number == 4:
                server.stop()
            yield {**GOOD, "key": str(number)}

    with pytest.raises(PublishError) as caught:
        enqueue_goals(goals_until_it_is_down(), app=app, batch_size=2)
    assert list(caught.value.delivery_ids) == ids_of(6)[:4]
    assert list(caught.value.uncertain_ids) == ids_of(6)[4:]


@pytest.fixture(params=["one by one", *(["in batches"] if hasattr(Producer, "batch") else [])])
def way_of_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How kombu publishes many goals; before version 5.7 it knows no batches."""
    if request.param == "one by one":
        monkeypatch.setattr(Producer, "supports_batch_publish", False, raising=False)
    way: str = request.param
    return way


@pytest.mark.usefixtures("way_of_many")
def test_many_goals_to_a_redis_that_falls_silent_are_all_uncertain_and_in_time(
    server: EmbeddedServer,
) -> None:
    with DroppingProxy(server.port) as proxy:
        app = application(f"redis://127.0.0.1:{proxy.port}/0")
        one(app)
        proxy.swallow_answers()
        began = time.monotonic()
        with pytest.raises(PublishError) as caught:
            enqueue_goals(goals(300), app=app)
        assert time.monotonic() - began < TIMEOUT_SECONDS + PATIENCE_SECONDS
    assert list(caught.value.uncertain_ids) == ids_of(300)


def test_a_batch_whose_connection_is_lost_is_sent_again_as_a_whole_with_the_same_ids(
    server: EmbeddedServer, way_of_many: str
) -> None:
    with DroppingProxy(server.port) as proxy, ThreadPoolExecutor(1) as pool:
        app = application(
            f"redis://127.0.0.1:{proxy.port}/0",
            task_publish_retry_policy={"max_retries": 3, "interval_start": 0.3},
        )
        proxy.cuts_at = ids_of(30)[20].encode()
        publishing = pool.submit(enqueue_goals, goals(30), app=app)
        assert proxy.has_cut.wait(10)
        proxy.cuts_at = None
        assert list(publishing.result().delivery_ids) == ids_of(30)
    found = queued_ids(server)
    first_try, second_try = found[:-30], found[-30:]
    assert second_try == ids_of(30)
    assert first_try == ids_of(len(first_try))
    # Of a pipeline any part may have arrived.
    assert len(first_try) == 20 or (way_of_many == "in batches" and len(first_try) < 20)


class SlowProxy(DroppingProxy):
    """Keeps whatever passes waiting for some seconds."""

    seconds = 0.0

    def _pass_on(self, source: socket.socket) -> None:
        time.sleep(self.seconds)
        super()._pass_on(source)


def test_goals_one_by_one_to_a_redis_that_answers_slowly_end_in_time(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Producer, "supports_batch_publish", False, raising=False)
    with SlowProxy(server.port) as proxy:
        app = application(f"redis://127.0.0.1:{proxy.port}/0")
        one(app)
        proxy.seconds = 0.05
        began = time.monotonic()
        with pytest.raises(PublishError, match="no more time") as caught:
            enqueue_goals(goals(100), app=app)
        assert time.monotonic() - began < TIMEOUT_SECONDS + PATIENCE_SECONDS
    assert list(caught.value.uncertain_ids) == ids_of(100)
    assert 1 < queued(server) < 100


def test_goals_one_by_one_take_longer_than_the_broker_may_be_silent(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Producer, "supports_batch_publish", False, raising=False)
    with SlowProxy(server.port) as proxy:
        app = application(f"redis://127.0.0.1:{proxy.port}/0")
        one(app)
        proxy.seconds = 0.001
        began = time.monotonic()
        enqueue_goals(goals(1000), app=app, batch_size=1000)
        assert time.monotonic() - began > TIMEOUT_SECONDS
    assert queued(server) == 1001


def queued_ids(server: EmbeddedServer) -> list[str]:
    """Return the ids on the queue, the first that was sent first."""
    with redis.Redis.from_url(server.url) as client:
        messages = [json.loads(one) for one in client.lrange("ninja_tasks", 0, -1)]
    return [message["headers"]["id"] for message in reversed(messages)]


def test_the_applications_own_producers_are_not_touched(server: EmbeddedServer) -> None:
    app = application(server.url)
    one(app)
    with app.producer_pool.acquire(block=True) as producer:
        assert producer.channel.socket_timeout is None
        assert "confirm_publish" not in producer.connection.transport_options

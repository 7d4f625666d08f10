"""Goals from a Redis: a real Valkey, kombu's own producers, and a source with its two threads."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from dropping_proxy import DroppingProxy
from kombu import Connection, Producer, Queue
from stack import free_port, wait_until
from tls import TlsProxy

from ninja_tasks.testing import EmbeddedServer, embedded, embedded_server
from ninja_tasks.worker import redis_source
from ninja_tasks.worker.broker_redis import held_goals_of
from ninja_tasks.worker.held import HeldGoals
from ninja_tasks.worker.lane import Room
from ninja_tasks.worker.redis_source import RedisSource
from ninja_tasks.worker.taken import Message

HELD, LEASES = "ninja_tasks.held", "ninja_tasks.held:leases"
OLDER, OLDER_LEASES = "ninja_tasks.unacked", "ninja_tasks.unacked_index"
QUEUE = "q"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as one:
        one.flushall()
        one.config_set("maxmemory", 0)
        yield one


class Worker:
    """Receives what a source takes, and acknowledges when it is told to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.messages: list[Message] = []
        self.source: RedisSource
        self.forgotten: set[str] = set()

    def room(self) -> Room:
        waiting = len(self.messages) - self.ended
        return Room(max(0, self.size - waiting), self.size, waiting > 0)

    @property
    def ended(self) -> int:
        return sum(message.acknowledged for message in tuple(self.messages))

    def receive(self, messages: list[Message]) -> None:
        self.messages += messages

    def is_alive(self, message: Message) -> bool:
        return message.delivery_tag not in self.forgotten

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in tuple(self.messages)]

    def take(self, count: int) -> list[Any]:
        """Return the bodies of this many messages, and acknowledge none."""
        wait_until(lambda: len(self.messages) >= count, f"{count} messages, got {self.messages}")
        return self.bodies


@contextmanager
def taking(
    url: str, queue: str = QUEUE, *, room: int = 100, older_lease: float = 7.0, **options: Any
) -> Iterator[Worker]:
    with Connection(url, transport_options=options) as connection:
        connection.connect()
        worker = Worker(room)
        goals = held_goals_of(connection, queue)
        worker.source = RedisSource(
            goals, queue, {"application/json"}, worker, older_lease_seconds=older_lease
        )
        worker.source.start()
        worker.source.open(True)
        try:
            yield worker
        finally:
            worker.source.end()
        wait_until(lambda: not worker.source.is_running, "the threads to end")


@contextmanager
def holding(server: EmbeddedServer, queue: str = QUEUE) -> Iterator[HeldGoals]:
    """Return the queue without a worker: nobody renews what it claims."""
    with Connection(server.url) as connection:
        connection.connect()
        yield held_goals_of(connection, queue)


def send(url: str, queue: str, *bodies: Any, priority: int = 0, **options: Any) -> None:
    """Publish by kombu's own transport, as every producer does."""
    with Connection(url, transport_options=options) as connection:
        producer = Producer(connection.default_channel, serializer="json")
        for body in bodies:
            producer.publish(body, routing_key=queue, priority=priority, declare=[Queue(queue)])


def end_leases(client: redis.Redis, key: str = LEASES) -> None:
    client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1))


def test_a_taken_message_is_held_until_it_is_acknowledged(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, 1, 2)
    raw = client.lrange(QUEUE, 0, -1)
    with taking(server.url) as worker:
        assert worker.take(2) == [1, 2]
        held = [json.loads(one) for one in client.hvals(HELD)]
        assert sorted(one[0]["body"] for one in held) == sorted(
            json.loads(one)["body"] for one in raw
        )
        assert [one[1:] for one in held] == [["", QUEUE]] * 2
        assert client.zcard(LEASES) == 2
        for message in worker.messages:
            message.ack()
        wait_until(lambda: not client.exists(HELD, LEASES, QUEUE), "the acknowledgements")


def test_what_was_not_acknowledged_is_back_in_its_order_when_the_worker_ends(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, 1, 2, 3)
    raw = client.lrange(QUEUE, 0, -1)
    with taking(server.url) as worker:
        worker.take(3)
        assert not client.exists(QUEUE)
    assert client.lrange(QUEUE, 0, -1) == raw
    assert not client.exists(HELD, LEASES)


def test_no_more_is_taken_than_there_is_room_for(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, *range(10))
    with taking(server.url, room=4) as worker:
        worker.take(4)
        worker.source.wake()
        worker.source.fetch()
        assert client.llen(QUEUE) == 6
        worker.messages[0].ack()
        worker.messages[1].reject()
        worker.source.wake()
        assert worker.take(6) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_taken_before_it_is_wanted_and_after_it_is_not(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    with taking(server.url) as worker:
        worker.source.open(False)
        send(server.url, QUEUE, 1)
        time.sleep(1.2)  # longer than a look
        assert not worker.messages
        worker.source.open(True)
        worker.take(1)


def test_acknowledgements_go_along_with_the_next_claim(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, *range(64))
    with taking(server.url, room=32) as worker:
        worker.take(32)
        client.config_resetstat()
        for message in worker.messages[:32]:
            message.ack()
        worker.source.fetch()
        worker.take(64)
        assert client.hlen(HELD) == 32
        assert "cmdstat_exec" not in client.info("commandstats")


def test_a_claim_takes_at_most_32(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, QUEUE, *range(50))
    with holding(server) as goals:
        assert len(goals.claim(100).messages) == 32
        assert len(goals.claim(100).messages) == 18


def test_an_idle_worker_sees_a_new_message_at_once(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    with taking(server.url) as worker:
        time.sleep(0.2)  # it looks by now
        send(server.url, QUEUE, "late")
        began = time.monotonic()
        worker.take(1)
        assert time.monotonic() - began < 0.5


def test_an_idle_worker_asks_redis_once_a_second(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    with taking(server.url):
        time.sleep(0.5)  # until it looks
        client.config_resetstat()
        time.sleep(6)
        numbers = client.info("commandstats")
    asked = {
        name: numbers[f"cmdstat_{name}"]["calls"] if f"cmdstat_{name}" in numbers else 0
        for name in ("blmove", "evalsha", "eval", "exec")
    }
    assert 4 <= sum(asked.values()) <= 8, asked


def test_a_rejected_message_is_the_last_of_its_queue_or_gone(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, "back", "gone", "next")
    with taking(server.url, room=2) as worker:
        worker.take(2)
        worker.messages[0].reject(requeue=True)
        worker.messages[1].reject()
        worker.size = 4
        worker.source.wake()
        assert worker.take(4)[2:] == ["next", "back"]
        wait_until(lambda: client.hlen(HELD) == 2, "the others to be gone")


def test_what_is_given_back_is_the_next_in_its_order(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, *range(4))
    with taking(server.url, room=3) as worker:
        worker.take(3)
        worker.source.open(False)
        worker.source.give_back(worker.messages[1:])
        wait_until(lambda: client.llen(QUEUE) == 3, "the goals to be back")
    with holding(server) as goals:
        bodies = [Message(one, QUEUE, None, None).body for one in goals.claim(4).messages]
    assert [json.loads(body) for body in bodies] == [0, 1, 2, 3]


def test_priorities_are_served(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, QUEUE, "low", priority=9)
    send(server.url, QUEUE, "high", priority=0)
    with taking(server.url) as worker:
        assert worker.take(2) == ["high", "low"]
        send(server.url, QUEUE, "more", priority=9)
        began = time.monotonic()
        worker.take(3)
        assert time.monotonic() - began < 1.0
    lists = {key: client.llen(key) for key in client.scan_iter(_type="list")}
    assert lists == {QUEUE: 1, f"{QUEUE}\x06\x169": 2}


def test_with_a_key_prefix_every_key_has_it(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, QUEUE, 1, 2, global_keyprefix="shop:")
    with taking(server.url, global_keyprefix="shop:", room=2) as worker:
        worker.take(2)
        worker.messages[0].ack()
        worker.messages[1].reject(requeue=True)
        worker.source.wake()
        assert worker.take(3) == [1, 2, 2]
    assert all(key.startswith("shop:") for key in client.scan_iter())
    assert client.llen("shop:q") == 1


def test_a_lease_that_ended_puts_the_message_back_as_it_was_sent_and_first(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldGoals, "uptime_seconds", lambda goals: 100.0)
    send(server.url, QUEUE, "first", "second", priority=3)
    raw = client.lrange(f"{QUEUE}\x06\x163", 0, -1)
    with holding(server) as lost:
        lost.claim(2)
        send(server.url, QUEUE, "third", priority=3)
        end_leases(client)
        assert lost.claim(0).may_sweep
        assert lost.sweep() == 2
    assert client.lrange(f"{QUEUE}\x06\x163", 1, -1) == raw
    assert not client.exists(HELD, LEASES)


@pytest.mark.parametrize("is_busy", [False, True])
def test_what_a_lost_worker_held_runs_again(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(HeldGoals, "uptime_seconds", lambda goals: 100.0)
    send(server.url, QUEUE, "lost")
    with holding(server) as lost:
        lost.claim(1)
    end_leases(client)
    if is_busy:
        send(server.url, QUEUE, *range(200))
    with taking(server.url, room=1000) as worker:
        wait_until(lambda: "lost" in worker.bodies, "the goal")


def test_only_messages_that_are_worked_on_are_renewed_and_not_for_ever(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_source, "_LONGEST_HELD_SECONDS", 60.0)
    send(server.url, QUEUE, "kept", "forgotten", "never ends")
    with taking(server.url) as worker:
        worker.take(3)
        kept, forgotten, endless = worker.messages
        worker.forgotten.add(forgotten.delivery_tag)
        endless.claimed_at -= 60
        end_leases(client)

        def renewed() -> set[str]:
            scores = client.zrange(LEASES, 0, -1, withscores=True)
            return {tag for tag, begun in scores if begun > 1}

        wait_until(renewed, "a renewal")
        assert renewed() == {kept.delivery_tag}


def test_a_renewal_brings_nothing_back(server: EmbeddedServer, client: redis.Redis) -> None:
    with holding(server) as goals:
        goals.renew(["no such tag"])
    assert not client.exists(LEASES)


def test_a_full_redis_lets_leases_be_renewed(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, QUEUE, 1)
    with holding(server) as goals:
        (taken,) = goals.claim(1).messages
        end_leases(client)
        client.config_set("maxmemory", 1)
        goals.renew([taken.tag])
        assert float(client.zscore(LEASES, taken.tag) or 0) > 1
        client.config_set("maxmemory", 0)


def test_leases_are_not_ended_by_a_server_that_was_away(tmp_path: Path) -> None:
    with embedded_server(appendonly=True) as server:
        send(server.url, QUEUE, 1)
        with redis.Redis.from_url(server.url) as client, holding(server) as lost:
            lost.claim(1)
            end_leases(client)
            server.kill()
        server.start()
        with taking(server.url) as other:
            time.sleep(2.5)  # some sweeps
            assert not other.messages
            other.take(1)


def test_an_entry_that_nobody_can_read_stays_and_stands_in_nobodys_way(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    client.hset(HELD, "strange", "no entry")
    client.zadd(LEASES, {"strange": 1})
    with holding(server) as goals:
        assert goals.sweep() == 0
    assert not client.exists(LEASES)
    assert client.hget(HELD, "strange") == "no entry"


@pytest.mark.parametrize("raw", ["", "garbage{", "[]", '","x"]', "{}", '{"properties": {}}'])
def test_bytes_that_are_no_message_arrive_as_a_fault(
    server: EmbeddedServer, client: redis.Redis, raw: str
) -> None:
    client.lpush(QUEUE, raw)
    send(server.url, QUEUE, "good")
    with taking(server.url) as worker:
        wait_until(lambda: len(worker.messages) == 2, "both")
        bad, good = worker.messages
        assert (bad.raw, good.payload, good.fault) == (raw.encode(), "good", None)
        if raw != '{"properties": {}}':
            assert "no message of Celery's" in str(bad.fault)
    assert client.lrange(QUEUE, 1, -1) == [raw]


def test_forgotten_scripts_are_sent_again(server: EmbeddedServer, client: redis.Redis) -> None:
    with taking(server.url) as worker:
        for number in range(3):
            client.script_flush()
            send(server.url, QUEUE, number)
            worker.take(number + 1)
            worker.messages[-1].ack()
        assert worker.bodies == [0, 1, 2]
        wait_until(lambda: not client.exists(HELD), "the acknowledgements")


def test_a_full_redis_can_be_drained(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, QUEUE, *range(5))
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError):
        client.set("more", "x")
    with taking(server.url, room=5) as worker:
        assert worker.take(5) == [0, 1, 2, 3, 4]
        worker.messages[0].ack()
        worker.messages[1].reject(requeue=True)
        wait_until(lambda: client.hlen(HELD) == 3 or len(worker.messages) > 5, "an end")


def test_a_worker_that_waits_when_redis_gets_full_takes_what_comes(
    server: EmbeddedServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    send(server.url, "elsewhere", "late")
    with taking(server.url) as worker:
        time.sleep(0.3)  # it looks by now
        client.config_set("maxmemory", 1)
        wait_until(lambda: "asked for goals every second" in caplog.text, "a refusal")
        client.rename("elsewhere", QUEUE)
        assert worker.take(1) == ["late"]
        time.sleep(2.5)  # more refusals
        assert caplog.text.count("every second") == 1


def test_a_claim_that_cannot_be_written_down_takes_nothing(
    server: EmbeddedServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    send(server.url, QUEUE, 1, 2)
    raw = client.lrange(QUEUE, 0, -1)
    client.set(LEASES, "no sorted set")
    with taking(server.url) as worker:
        wait_until(lambda: "no goals from the broker" in caplog.text, "a refusal")
        assert client.lrange(QUEUE, 0, -1) == raw
        assert not client.exists(HELD)
        client.delete(LEASES)
        assert worker.take(2) == [1, 2]


def test_threads_that_fetch_at_once_take_each_goal_once(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, *range(300))
    with taking(server.url, room=16) as worker:
        is_over = threading.Event()

        def work() -> None:
            while not is_over.is_set():
                for message in tuple(worker.messages):
                    if not message.acknowledged:
                        worker.source.fetch()
                worker.source.fetch()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:

            def done() -> bool:
                for message in tuple(worker.messages):
                    if not message.acknowledged:
                        message.ack()
                return len(worker.messages) >= 300

            wait_until(done, "all goals")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert sorted(worker.bodies) == list(range(300))


@pytest.mark.parametrize("is_new", [True, False])
def test_what_workers_of_0_1_0_held_goes_back_by_their_rule(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    monkeypatch.setattr(HeldGoals, "uptime_seconds", lambda goals: 10_000.0)
    send(server.url, "shop", "a task of the application")
    send(server.url, QUEUE, "a goal", priority=6)
    for number, (name, priority) in enumerate({"shop": 0, QUEUE: 6}.items()):
        raw = client.rpop(f"{name}\x06\x16{priority}" if priority else name)
        tag = f"worker0.{number}.{priority}"
        client.hset(OLDER, tag, f'[{raw},"","{name}"]')
        client.zadd(OLDER_LEASES, {tag: client.time()[0] - (20 if is_new else 40)})
    with taking(server.url, older_lease=30.0) as worker:
        if is_new:
            time.sleep(1.5)  # some sweeps
            assert client.hlen(OLDER) == 2
        else:
            assert worker.take(1) == ["a goal"]
            assert client.llen("shop") == 1
            assert not client.exists(OLDER, OLDER_LEASES)


def test_a_password_is_used(client: redis.Redis) -> None:
    with embedded_server() as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "secret")
        url = server.url.replace("redis://", "redis://:secret@")
        send(url, QUEUE, 1)
        with taking(url) as worker:
            assert worker.take(1) == [1]
            worker.messages[0].ack()


def test_tls_is_used(server: EmbeddedServer, client: redis.Redis, certificate: Path) -> None:
    send(server.url, QUEUE, 1)
    with TlsProxy(server.port, certificate) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        with taking(url) as worker:
            assert worker.take(1) == [1]
            worker.messages[0].ack()
        assert not client.exists(HELD)


@contextmanager
def valkey(directory: Path, ready: Callable[[], Any], *arguments: str) -> Iterator[None]:
    """Run a server that the embedded one cannot be: without a port, or one of Sentinel's."""
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [embedded._find_binary(), *arguments, "--dir", str(directory), "--save", ""],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(ready, "the server")
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_a_unix_socket_is_used(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with valkey(tmp_path, path.exists, "--port", "0", "--unixsocket", str(path)):
        url = f"redis+socket://{path}"
        send(url, QUEUE, 1)
        with taking(url) as worker:
            assert worker.take(1) == [1]
            worker.messages[0].ack()


def test_sentinel_names_the_server(tmp_path: Path, server: EmbeddedServer) -> None:
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\nsentinel monitor shop 127.0.0.1 {server.port} 1\n"
    )

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    with valkey(tmp_path, answers, str(configuration), "--sentinel"):
        url = f"sentinel://127.0.0.1:{port}/0"
        send(url, "s", 1, master_name="shop")
        with taking(url, "s", master_name="shop") as worker:
            assert worker.take(1) == [1]
            worker.messages[0].ack()


def test_a_connection_that_is_cut_at_the_question_how_long_redis_runs_works_and_ends(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, QUEUE, 1)
    with DroppingProxy(server.port) as proxy:
        proxy.cuts_at = b"\r\nINFO\r\n"
        with taking(f"redis://127.0.0.1:{proxy.port}/0") as worker:
            assert worker.take(1) == [1]
        assert client.llen(QUEUE) == 1

"""The crash-safe transport: a real Valkey, and kombu's own producers and consumers."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from dropping_proxy import DroppingProxy
from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub
from kombu.transport import TRANSPORT_ALIASES
from stack import free_port, wait_until
from tls import TlsProxy

from ninja_tasks.errors import ConfigurationError
from ninja_tasks.testing import EmbeddedServer, embedded, embedded_server
from ninja_tasks.worker.transport import refuse_untested_kombu

PLAIN = "ninja_tasks.worker.transport:Transport"
SENTINEL = "ninja_tasks.worker.transport:SentinelTransport"
HELD, LEASES = "ninja_tasks.unacked", "ninja_tasks.unacked_index"


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


class Taker:
    """A consumer that notes what it gets and acknowledges when it is told to."""

    def __init__(
        self, connection: Connection, *queues: Queue, prefetch: int = 0, no_ack: bool = False
    ) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.consumer = Consumer(
            connection.default_channel,
            queues,
            on_message=self.messages.append,
            accept=["json"],
            prefetch_count=prefetch or None,
            no_ack=no_ack,
        )
        self.consumer.consume()

    @property
    def channel(self) -> Any:
        return self.consumer.channel

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]

    def take(self, count: int) -> list[Any]:
        """Return the bodies of this many messages, and acknowledge none."""

        def enough() -> bool:
            self.drain()
            return len(self.messages) >= count

        wait_until(enough, f"{count} messages, got {self.messages}")
        return self.bodies

    def drain(self, seconds: float = 0.05) -> None:
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=seconds)


@contextmanager
def taking(
    url: str,
    *queues: str | Queue,
    transport: str = PLAIN,
    prefetch: int = 0,
    no_ack: bool = False,
    **options: Any,
) -> Iterator[Taker]:
    with Connection(url, transport=transport, transport_options=options) as connection:
        yield Taker(
            connection,
            *(Queue(one, routing_key=one) if isinstance(one, str) else one for one in queues),
            prefetch=prefetch,
            no_ack=no_ack,
        )


def send(url: str, queue: str, *bodies: Any, priority: int = 0, **options: Any) -> None:
    """Publish by kombu's own transport, as every producer does."""
    with Connection(url, transport_options=options) as connection:
        producer = Producer(connection.default_channel, serializer="json")
        for body in bodies:
            producer.publish(body, routing_key=queue, priority=priority, declare=[Queue(queue)])


def test_a_taken_message_is_held_until_it_is_acknowledged(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", 1, 2)
    raw = client.lrange("q", 0, -1)
    with taking(server.url, "q") as taker:
        assert taker.take(2) == [1, 2]
        held = [json.loads(one) for one in client.hvals(HELD)]
        assert sorted(one[0]["body"] for one in held) == sorted(
            json.loads(one)["body"] for one in raw
        )
        assert [one[1:] for one in held] == [["", "q"]] * 2
        assert client.zcard(LEASES) == 2
        for message in taker.messages:
            message.ack()
        assert not client.exists(HELD, LEASES, "q")


def test_what_was_not_acknowledged_is_back_in_its_order_when_the_connection_is_closed(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", 1, 2, 3)
    raw = client.lrange("q", 0, -1)
    with taking(server.url, "q") as taker:
        taker.take(3)
        assert not client.exists("q")
    assert client.lrange("q", 0, -1) == raw
    assert not client.exists(HELD, LEASES)


def test_no_more_is_taken_than_there_is_room_for(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", *range(10))
    with taking(server.url, "q", prefetch=4) as taker:
        taker.take(4)
        taker.drain(0.2)
        assert taker.bodies == [0, 1, 2, 3]
        assert client.llen("q") == 6
        taker.messages[0].ack()
        taker.messages[1].reject()
        assert taker.take(6) == [0, 1, 2, 3, 4, 5]


def test_acknowledgements_of_other_threads_wake_the_loop_once_when_half_of_the_room_is_free(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server.url, "q", *range(12))
    wakes: list[int] = []
    with taking(server.url, "q", prefetch=8) as taker:
        hub = Hub()
        taker.connection.register_with_event_loop(hub)
        monkeypatch.setattr(hub, "call_soon", lambda callback: wakes.append(threading.get_ident()))
        wait_until(lambda: hub.run_once() or len(taker.messages) == 8, "the first claim")

        def acknowledge(start: int, end: int) -> int:
            messages = taker.messages[start:end]
            thread = threading.Thread(target=lambda: [one.ack() for one in messages])
            thread.start()
            thread.join()
            return len(wakes)

        assert acknowledge(0, 3) == 0
        assert acknowledge(3, 4) == 1
        assert acknowledge(4, 8) == 1
        wait_until(lambda: hub.run_once() or len(taker.messages) == 12, "the second claim")
        assert acknowledge(8, 9) == 2
        wait_until(lambda: hub.run_once() or client.hlen(HELD) == 3, "the acknowledgements")
        hub.close()


def test_who_wants_no_acknowledgements_needs_to_give_none(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", 1, 2)
    with taking(server.url, "q", no_ack=True) as taker:
        assert taker.take(2) == [1, 2]
        assert not client.exists(HELD, LEASES, "q")


def test_a_claim_takes_at_most_32(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, "q", *range(50))
    with taking(server.url, "q") as taker:
        taker.drain()
        assert len(taker.messages) == 32
        assert taker.take(50) == list(range(50))


def test_an_idle_consumer_sees_a_new_message_at_once(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    with taking(server.url, "q") as taker:
        taker.drain(0.2)
        timer = threading.Timer(0.2, send, (server.url, "q", "late"))
        timer.start()
        began = time.monotonic()
        taker.drain(1)
        taker.take(1)
        assert time.monotonic() - began < 0.9
        timer.join()


def test_a_rejected_message_is_the_last_of_its_queue_or_gone(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", "back", "gone", "next")
    with taking(server.url, "q", prefetch=2) as taker:
        taker.take(2)
        taker.messages[0].reject(requeue=True)
        taker.messages[1].reject()
        assert taker.take(4)[2:] == ["next", "back"]
        assert client.hlen(HELD) == 2


def test_several_queues_and_priorities_are_served(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "a", "low", priority=9)
    send(server.url, "a", "high", priority=0)
    send(server.url, "b", "other")
    with taking(server.url, "a", "b") as taker:
        bodies = taker.take(3)
        assert bodies.index("high") < bodies.index("low")
        assert set(bodies) == {"high", "low", "other"}
        send(server.url, "b", "later")
        assert "later" in taker.take(4)
    lists = {key: client.llen(key) for key in client.scan_iter(_type="list")}
    assert lists == {"a": 1, "a\x06\x169": 1, "b": 2}


def test_with_a_key_prefix_every_key_has_it(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, "q", 1, 2, global_keyprefix="shop:")
    with taking(server.url, "q", global_keyprefix="shop:") as taker:
        taker.take(2)
        taker.messages[0].ack()
        taker.messages[1].reject(requeue=True)
        assert taker.take(3) == [1, 2, 2]
    assert all(key.startswith("shop:") for key in client.scan_iter())
    assert client.llen("shop:q") == 1


def test_a_lease_that_ended_puts_the_message_back_as_it_was_sent_and_first(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", "first", "second", priority=3)
    raw = client.lrange("q\x06\x163", 0, -1)
    with taking(server.url, "q", visibility_timeout=2) as lost:
        lost.take(2)
        lost.channel.is_taken_over = True  # as if its worker were gone
        send(server.url, "q", "third", priority=3)
        wait_until(lost.channel.sweep, "the lease to end")
        assert client.lrange("q\x06\x163", 1, -1) == raw
        assert not client.exists(HELD, LEASES)


def test_a_lease_that_is_renewed_does_not_end(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, "q", "kept", "dropped")
    with taking(server.url, "q", visibility_timeout=2) as taker:
        taker.take(2)
        kept = taker.messages[0].delivery_tag

        def only_one_is_left() -> bool:
            taker.channel.renew([kept])
            taker.channel.sweep()
            return bool(client.hlen(HELD) == 1)

        wait_until(only_one_is_left, "the other lease to end")
        assert client.hkeys(HELD) == [kept]
        taker.channel.renew(["no such tag"])
        assert client.zcard(LEASES) == 1


def test_a_full_redis_lets_leases_be_renewed(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, "q", 1)
    with taking(server.url, "q") as taker:
        taker.take(1)
        (tag,) = client.hkeys(HELD)
        client.zadd(LEASES, {tag: 1})
        client.config_set("maxmemory", 1)
        taker.channel.renew([tag])
        assert float(client.zscore(LEASES, tag) or 0) > 1
        client.config_set("maxmemory", 0)


def test_goals_have_a_short_lease_whatever_the_applications_is(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "ninja_tasks", "goal")
    send(server.url, "q", "task")
    with taking(server.url, "ninja_tasks", "q", visibility_timeout=43_200) as taker:
        taker.take(2)
        for _ in range(2):
            leases = sorted(
                43_200 - (client.time()[0] - begun)
                for _tag, begun in client.zrange(LEASES, 0, -1, withscores=True)
            )
            assert leases == [pytest.approx(7, abs=2), pytest.approx(43_200, abs=2)]
            taker.channel.renew(client.zrange(LEASES, 0, -1))
        taker.channel.is_taken_over = True
        for tag in client.zrange(LEASES, 0, -1):
            client.zincrby(LEASES, -8, tag)
        wait_until(taker.channel.sweep, "the goal to be put back", 10)
        assert client.llen("ninja_tasks") == client.hlen(HELD) == 1


def test_leases_are_not_ended_by_a_server_that_was_away(tmp_path: Path) -> None:
    with embedded_server(appendonly=True) as server:
        send(server.url, "q", 1)
        with redis.Redis.from_url(server.url) as client, taking(server.url, "q") as lost:
            lost.take(1)
            lost.channel.is_taken_over = True
            client.zadd(LEASES, dict.fromkeys(client.zrange(LEASES, 0, -1), 1))
            server.kill()
        server.start()
        with taking(server.url, "other") as other:
            assert other.channel.sweep() == 0


def test_what_celerys_own_transport_held_is_put_back(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    names = {"unacked_key": HELD, "unacked_index_key": LEASES}
    send(server.url, "q", 1)
    with taking(server.url, "q", transport="redis", **names) as stock:
        stock.take(1)
        client.zadd(LEASES, dict.fromkeys(client.zrange(LEASES, 0, -1), 1))
        with taking(server.url, "other", visibility_timeout=1) as other:
            wait_until(other.channel.sweep, "the message to be put back")
        assert client.llen("q") == 1


def test_an_entry_that_nobody_can_read_stays_and_stands_in_nobodys_way(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    client.hset(HELD, "strange", "no entry")
    client.zadd(LEASES, {"strange": 1})
    with taking(server.url, "q", visibility_timeout=1) as taker:
        wait_until(lambda: taker.channel.sweep() == 0 and not client.exists(LEASES), "the sweep")
    assert client.hget(HELD, "strange") == "no entry"


@pytest.mark.parametrize("raw", ["", "garbage{", "[]", '","x"]', "{}"])
def test_bytes_that_are_no_message_arrive_as_a_fault(
    server: EmbeddedServer, client: redis.Redis, raw: str
) -> None:
    client.lpush("q", raw)
    send(server.url, "q", "good")
    with taking(server.url, "q") as taker:
        wait_until(lambda: taker.drain() or len(taker.messages) == 2, "both")
        bad, good = taker.messages
        assert (bad.raw, good.payload, good.fault) == (raw.encode(), "good", None)
        assert "no message of Celery's" in bad.fault
    assert client.lrange("q", 1, -1) == [raw]


def test_forgotten_scripts_are_sent_again(server: EmbeddedServer, client: redis.Redis) -> None:
    with taking(server.url, "q") as taker:
        for number in range(3):
            client.script_flush()
            send(server.url, "q", number)
            taker.take(number + 1)
            taker.messages[-1].ack()
        assert taker.bodies == [0, 1, 2]
        assert not client.exists(HELD)


def test_a_full_redis_can_be_drained(server: EmbeddedServer, client: redis.Redis) -> None:
    send(server.url, "q", *range(5))
    with taking(server.url, "q") as taker:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError):
            client.set("more", "x")
        assert taker.take(5) == [0, 1, 2, 3, 4]
        taker.messages[0].ack()
        taker.messages[1].reject(requeue=True)
        assert client.llen("q") == 1


def test_a_consumer_that_waits_when_redis_gets_full_takes_what_comes(
    server: EmbeddedServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    send(server.url, "elsewhere", "late")
    with taking(server.url, "q") as taker:
        taker.drain(0.3)
        client.config_set("maxmemory", 1)
        wait_until(lambda: taker.drain() or "hands out no messages" in caplog.text, "a refusal")
        client.rename("elsewhere", "q")
        assert taker.take(1) == ["late"]
        for _ in range(20):
            taker.drain()
        assert caplog.text.count("hands out no messages") == 1


def test_a_claim_that_cannot_be_written_down_takes_nothing(
    server: EmbeddedServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    send(server.url, "q", 1, 2)
    raw = client.lrange("q", 0, -1)
    client.set(LEASES, "no sorted set")
    with taking(server.url, "q") as taker:
        taker.drain(0.3)
        assert client.lrange("q", 0, -1) == raw
        assert not client.exists(HELD)
        assert "hands out no messages" in caplog.text
        client.delete(LEASES)
        assert taker.take(2) == [1, 2]


def test_a_later_connection_goes_on_with_what_the_lost_one_held(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", 1, 2)
    with taking(server.url, "q") as lost, taking(server.url, "other") as later:
        lost.take(2)
        lost.channel.is_taken_over = True
        lost.channel.gathers = True
        lost.messages[0].ack()
        lost.channel.close()
        assert client.hlen(HELD) == 2
        later.channel.take_over(lost.channel, lost.messages[1:])
        later.channel.send_acknowledged()
        assert client.hlen(HELD) == 1
        lost.messages[1].ack()
        assert not client.exists(HELD)


def test_a_password_is_used(client: redis.Redis) -> None:
    with embedded_server() as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "secret")
        url = server.url.replace("redis://", "redis://:secret@")
        send(url, "q", 1)
        with taking(url, "q") as taker:
            assert taker.take(1) == [1]
            taker.messages[0].ack()


def test_tls_is_used(server: EmbeddedServer, client: redis.Redis, certificate: Path) -> None:
    send(server.url, "q", 1)
    with TlsProxy(server.port, certificate) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        with taking(url, "q") as taker:
            assert taker.take(1) == [1]
            taker.messages[0].ack()
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


def test_a_unix_socket_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    with valkey(tmp_path, path.exists, "--port", "0", "--unixsocket", str(path)):
        url = f"redis+socket://{path}"
        send(url, "q", 1)
        monkeypatch.setitem(TRANSPORT_ALIASES, "ninja", PLAIN)
        with taking(f"ninja+socket://{path}", "q", transport="") as taker:
            assert taker.take(1) == [1]
            taker.messages[0].ack()


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
        with taking(url, "s", transport=SENTINEL, master_name="shop") as taker:
            assert taker.take(1) == [1]
            taker.messages[0].ack()


def test_an_untested_kombu_is_refused_with_a_remedy() -> None:
    refuse_untested_kombu("5.7.3")
    with pytest.raises(ConfigurationError, match=r"kombu==5\.7.*ninja_transport to \"stock\""):
        refuse_untested_kombu("5.8.0")


def test_a_connection_that_is_cut_at_the_question_how_long_redis_runs_works_and_ends(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    send(server.url, "q", 1)
    with DroppingProxy(server.port) as proxy:
        proxy.cuts_at = b"\r\nINFO\r\n"
        with taking(f"redis://127.0.0.1:{proxy.port}/0", "q") as taker:
            assert taker.take(1) == [1]
        assert client.llen("q") == 1

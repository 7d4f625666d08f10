"""Heartbeats: each process has a key that dies with it, and that returns with Redis."""

from __future__ import annotations

import os

import pytest
import redis
from stack import wait_until

from ninja_tasks.delivery.presence import DEAD_AFTER_SECONDS, Heartbeat, process_name
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import embedded_server

KEYS = Keys("ninja:")


def test_each_process_has_a_key_that_does_not_outlive_it_for_long() -> None:
    with (
        embedded_server() as server,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        Heartbeat(client, KEYS, lambda: [17]).beat()
        names = {KEYS.heartbeat(process_name()), KEYS.heartbeat(process_name(17))}
        assert set(client.scan_iter()) == names
        assert process_name() == process_name(os.getpid())
        for name in names:
            assert 0 < client.pttl(name) <= DEAD_AFTER_SECONDS * 1000


def test_the_beat_goes_on_when_redis_is_back(caplog: pytest.LogCaptureFixture) -> None:
    with embedded_server() as server:
        client = redis.Redis.from_url(server.url)
        heartbeat = Heartbeat(client, KEYS)
        heartbeat.start()
        try:
            name = KEYS.heartbeat(process_name())
            with redis.Redis.from_url(server.url) as other:
                wait_until(lambda: other.exists(name), "the first beat")
            server.kill()
            wait_until(lambda: "no heartbeat" in caplog.text, "a beat to fail")
            server.start()
            with redis.Redis.from_url(server.url) as other:
                wait_until(lambda: other.exists(name), "the next beat")
        finally:
            heartbeat.end()
            heartbeat.join()
        assert caplog.text.count("no heartbeat") == 1

"""The shop: a Celery application with tasks of its own, which knows nothing of goals but a line.

A worker makes it from environment variables; whether it calls ``install`` is one of them. Every
task writes down when it begins and ends, so that what runs twice is seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import redis
from celery import Celery, bootsteps
from kombu import Consumer, Queue

from ninja_tasks import install

__all__ = ["BEGUN", "ENDED", "EVENTS", "make_shop"]

#: Lists of what has begun and ended: the key that a call was given, and the process it ran in.
BEGUN, ENDED = "begun", "ended"
#: The queue whose messages the shop takes raw and in batches.
EVENTS = "events"
_BATCH = 10
#: Longer than any short lease, so that a message whose lease is not renewed comes twice.
_FLUSH_SECONDS = 9.0


def make_shop(
    broker: str, results: str, *, installs: bool, settings: Mapping[str, Any] | None = None
) -> Celery:
    shop = Celery("shop", broker=broker, backend=results, set_as_current=False)
    shop.conf.update(settings or {})
    for function, options in _TASKS.items():
        shop.task(name=f"shop.{function.__name__}", **options)(function)
    if installs:
        install(shop)
    return shop


def __getattr__(name: str) -> Any:
    if name == "app":
        return _worker_app()
    raise AttributeError(name)


@cache
def _worker_app() -> Celery:
    shop = make_shop(
        os.environ["SHOP_BROKER"],
        os.environ["SHOP_RESULTS"],
        installs=os.environ["SHOP_INSTALLS"] == "yes",
        settings=json.loads(os.environ["SHOP_SETTINGS"]),
    )
    if os.environ["SHOP_TAKES_EVENTS"] == "yes":
        shop.steps["consumer"].add(Batches)
    return shop


@cache
def _records() -> redis.Redis:
    return redis.Redis.from_url(os.environ["SHOP_RECORDS"])


@contextmanager
def _run_of(key: str) -> Iterator[None]:
    _records().rpush(BEGUN, f"{key} {os.getpid()}")
    yield
    _records().rpush(ENDED, f"{key} {os.getpid()}")


def echo(number: int) -> int:
    """Write nothing down: this one is for measuring."""
    return number


def note(key: str) -> str:
    with _run_of(key):
        return key


def step(number: int, key: str) -> int:
    """Be a link of a chain."""
    with _run_of(key):
        return number + 1


def total(numbers: list[int], key: str) -> int:
    with _run_of(key):
        return sum(numbers)


def nap(key: str, seconds: float) -> str:
    with _run_of(key):
        time.sleep(seconds)
    return key


def late_nap(key: str, seconds: float) -> str:
    return nap(key, seconds)


def stubborn_nap(key: str, seconds: float) -> str:
    return nap(key, seconds)


def limited(key: str) -> str:
    return note(key)


def again(self: Any, key: str) -> int:
    with _run_of(key):
        tries: int = self.request.retries
    if tries < 2:
        raise self.retry(countdown=1)
    return tries


def settings_in_force(self: Any) -> dict[str, str]:
    """Tell the worker's own configuration, as it is when everything has started."""
    found = {name: repr(value) for name, value in self.app.conf.table().items()}
    return found | {"address": self.app.connection().as_uri()}


_TASKS: dict[Any, dict[str, Any]] = {
    echo: {},
    note: {},
    step: {},
    total: {},
    nap: {},
    late_nap: {"acks_late": True},
    stubborn_nap: {"acks_late": True, "reject_on_worker_lost": True},
    limited: {"rate_limit": "15/m"},
    again: {"bind": True, "max_retries": 2},
    settings_in_force: {"bind": True},
}


class Batches(bootsteps.ConsumerStep):
    """Takes raw messages of a queue of its own, and acknowledges them by the batch."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._held: list[Any] = []

    def get_consumers(self, channel: Any) -> list[Consumer]:
        return [Consumer(channel, queues=[Queue(EVENTS)], on_message=self._take)]

    def start(self, consumer: Any) -> None:
        super().start(consumer)
        consumer.timer.call_repeatedly(_FLUSH_SECONDS, self._flush)

    def _take(self, message: Any) -> None:
        self._held.append(message)
        if len(self._held) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, []
        for message in held:
            with _run_of(json.loads(message.body)["key"]):
                message.ack()

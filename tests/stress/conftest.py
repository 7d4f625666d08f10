"""Several real workers, and sizes: small in ``make test``, full in ``make stress``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from stack import Kent, Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goals, install
from ninja_tasks.status import Statistics, statistics
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
IN_FULL = bool(os.environ.get("NINJA_STRESS"))


def size(small: int, full: int) -> int:
    return full if IN_FULL else small


@dataclass
class Fleet:
    """A broker, an API, a Sentry, and as many workers as a test starts."""

    app: Celery
    broker: EmbeddedServer
    api: FakeSalesNinja
    kent: Kent
    directory: Path
    settings: dict[str, str]
    workers: list[Worker] = field(default_factory=list)

    def start(
        self, count: int = 1, *, pool: str = "threads", concurrency: int = 8, **settings: str
    ) -> list[Worker]:
        """Start workers; settings are environment variables without ``NINJA_``, in lower case."""
        environment = clean_environment(
            **self.settings, **{f"NINJA_{name.upper()}": value for name, value in settings.items()}
        )
        started = [
            Worker(
                self.directory,
                environment,
                pool=pool,
                concurrency=concurrency,
                name=f"worker{len(self.workers) + number}",
            )
            for number in range(count)
        ]
        self.workers += started
        return started

    def enqueue(self, count: int) -> list[str]:
        goals = ({"goal_id": GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(count))
        return list(enqueue_goals(goals, app=self.app).delivery_ids)

    def numbers(self) -> Statistics:
        return statistics(self.app)

    def wait_for(
        self, probe: Callable[[Statistics], bool], what: str, timeout_seconds: float = 60
    ) -> None:
        def holds() -> bool:
            return probe(self.numbers())

        try:
            wait_until(holds, what, timeout_seconds)
        except AssertionError as error:
            logs = "\n".join(worker.log[-2000:] for worker in self.workers)
            raise AssertionError(f"{error}; {self.numbers()}; logs:\n{logs}") from None

    def ledger(self) -> dict[str, list[str]]:
        """Return the words of every page of the ledger."""
        with redis.Redis.from_url(self.broker.url, decode_responses=True) as client:
            names = list(client.scan_iter("ninja:l:*", 5000))
            texts = client.mget(names) if names else []
        return {
            name.removeprefix("ninja:l:"): str(text).split()
            for name, text in zip(names, texts, strict=True)
        }

    def stop(self) -> None:
        for worker in self.workers:
            assert worker.stop() == 0, worker.log[-3000:]
        self.workers.clear()


@contextmanager
def running_fleet(directory: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        broker = stack.enter_context(embedded_server(appendonly=True))
        api = stack.enter_context(FakeSalesNinja(keep_bodies=False))
        kent = Kent()
        stack.callback(kent.stop)
        settings = {
            "CELERY_BROKER_URL": broker.url,
            "NINJA_API_URL": api.url,
            "SENTRY_DSN": kent.dsn,
        }
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        fleet = Fleet(app, broker, api, kent, directory, settings)
        try:
            yield fleet
            fleet.stop()
        finally:
            for worker in fleet.workers:
                worker.end()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path) as running:
        yield running


@pytest.fixture
def measured(record_property: Any) -> Callable[..., None]:
    """Return a function that writes figures into the output of ``pytest -s`` and its report."""

    def note(**figures: Any) -> None:
        for name, value in figures.items():
            record_property(name, value)
        print("\nmeasured:", ", ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201

    return note

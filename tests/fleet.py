"""Several real workers, what became of goals, and sizes: small or, in ``make stress``, full."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from stack import Kent, Worker, clean_environment, wait_until

from ninja_tasks import enqueue_goals, install
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.state import Keys
from ninja_tasks.status import Statistics, statistics
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, embedded_server

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
#: Name of the property by which a test hands a row to the table of faults.
_FAULT = "fault"
IN_FULL = bool(os.environ.get("NINJA_STRESS"))


def size(small: int, full: int) -> int:
    return full if IN_FULL else small


def fullest_second(times: list[float]) -> tuple[int, float]:
    """Return how many of the times are in the fullest sliding second, and when that begins."""
    most, begins, first = 0, 0.0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= 1:
            first += 1
        if last - first + 1 > most:
            most, begins = last - first + 1, times[first] - times[0]
    return most, begins


@dataclass(frozen=True)
class Fates:
    """What became of goals.

    Attributes:
        goals: how many there were.
        lost: neither delivered nor dead.
        duplicated: which the API answered with success more than once.
        unmarked: of these, not marked in the ledger.
        unknown: which may have been counted twice, as the ledger or a letter says.
        delivered_at: when the ledger says they were delivered, seconds since 1970.
    """

    goals: int
    lost: int
    duplicated: int
    unmarked: int
    unknown: int
    delivered_at: dict[str, float]


@dataclass
class Fleet:
    """A broker, an API, a Sentry, and as many workers as a test starts."""

    app: Celery
    broker: EmbeddedServer
    api: FakeSalesNinja
    kent: Kent | None
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

    def letters(self) -> dict[str, str]:
        """Return the reasons of all dead letters by delivery id."""
        with redis.Redis.from_url(self.broker.url, decode_responses=True) as client:
            store = DeadLetterStore(client, Keys("ninja:"))
            return {one.letter.delivery_id: one.letter.reason for one in store.newest()}

    def letter(self, delivery_id: str) -> DeadLetter:
        with redis.Redis.from_url(self.broker.url, decode_responses=True) as client:
            stored = DeadLetterStore(client, Keys("ninja:")).get(delivery_id)
        assert stored is not None
        return stored.letter

    def wait_for_fates(self, ids: Collection[str], timeout_seconds: float = 60) -> Fates:
        """Wait until each goal is delivered or dead, and count; what is neither then is lost."""
        ledger, dead = {}, {}

        def all_settled() -> bool:
            nonlocal ledger, dead
            ledger, dead = self.ledger(), self.letters()
            return all(name in dead or ledger.get(name, "-")[0] == "d" for name in ids)

        deadline = time.monotonic() + timeout_seconds
        while not all_settled() and time.monotonic() < deadline:
            time.sleep(0.1)
        posts = Counter(one.delivery_id for one in self.api.delivered)
        twice = [name for name, count in posts.items() if count > 1]
        marked = {name for name, words in ledger.items() if words[0] == "d" and words[3] == "1"}
        return Fates(
            goals=len(ids),
            lost=sum(name not in dead and ledger.get(name, "-")[0] != "d" for name in ids),
            duplicated=len(twice),
            unmarked=len(set(twice) - marked),
            unknown=len(marked) + sum(reason == "unknown" for reason in dead.values()),
            delivered_at={
                name: int(words[1]) / 1000 for name, words in ledger.items() if words[0] == "d"
            },
        )

    def held(self) -> set[str]:
        """Return the delivery ids of the messages that workers have taken from the queue."""
        with redis.Redis.from_url(self.broker.url) as client:
            messages = [json.loads(one)[0] for one in client.hvals("ninja_tasks.held")]
        return {message["headers"]["id"] for message in messages}

    def queued(self) -> int:
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.llen("ninja_tasks"))

    def stop(self) -> None:
        for worker in self.workers:
            assert worker.stop() == 0, worker.log[-3000:]
        self.workers.clear()


@contextmanager
def running_fleet(directory: Path, *server_arguments: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        broker = stack.enter_context(
            embedded_server(appendonly=True, extra_arguments=server_arguments)
        )
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
def durable_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet whose Redis has everything on the disk before it answers."""
    with running_fleet(tmp_path, "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def measured(record_property: Any) -> Callable[..., None]:
    """Return a function that writes figures into the output of ``pytest -s`` and its report."""

    def note(**figures: Any) -> None:
        for name, value in figures.items():
            record_property(name, value)
        print("\nmeasured:", ", ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201

    return note


@pytest.fixture
def fault(record_property: Any) -> Callable[..., None]:
    """Return a function that puts a row into the table of faults at the end of the run."""

    def note(scenario: str, fates: Fates, seconds: float | None = None) -> None:
        shown = "" if seconds is None else f"{seconds:.1f}"
        row = (scenario, fates.goals, fates.lost, fates.duplicated, fates.unknown, shown)
        record_property(_FAULT, row)

    return note


def print_faults(reporter: Any) -> None:
    """Print the table of faults: every duplicate in it is marked in the ledger."""
    rows = sorted(
        value
        for reports in reporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _FAULT
    )
    if not rows:
        return
    names = ("scenario", "goals", "lost", "duplicated", "unknown", "seconds to recover")
    width = max(len(row[0]) for row in rows)
    reporter.section("faults")
    for row in (names, *rows):
        first, *rest = row
        reporter.line(f"{first:<{width}}" + "".join(f"  {one!s:>10}" for one in rest))

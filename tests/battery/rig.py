"""Shops on their brokers, two at a time: one as it always was, and one with ``install``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from fleet import IN_FULL
from rabbitmq_node import Node
from stack import Worker, clean_environment, free_port, wait_until

from battery.brokers import Broker, rabbitmq_broker, redis_broker
from battery.shop import BEGUN, ENDED, make_shop
from ninja_tasks import enqueue_goals
from ninja_tasks.testing import embedded_server

__all__ = [
    "FIRST",
    "Latency",
    "Opener",
    "Pair",
    "Place",
    "Shop",
    "interleaved",
    "numbered",
    "places",
    "sampled",
]

#: The name of a shop's first worker.
FIRST = "worker0@test"
_POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
#: What continuous integration has the time for; ``make battery`` runs all.
_LEAN = (("redis", "prefork"), ("redis", "threads"), ("rabbitmq", "prefork"))
_FULL = tuple((broker, pool) for broker in ("redis", "rabbitmq") for pool in _POOLS)

_TESTS = Path(__file__).parent.parent
_GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
_RESULT_SECONDS = 30.0
_directories = count()


class Place(NamedTuple):
    """Where a scene is played."""

    broker: str
    pool: str


def places(
    *,
    brokers: Sequence[str] = ("redis", "rabbitmq"),
    pools: Sequence[str] = _POOLS,
    always: Sequence[tuple[str, str]] = (),
) -> Any:
    """Parametrize a test by the places that are meant and that this run has the time for.

    Args:
        always: places that are meant in any run.
    """
    chosen = dict.fromkeys([*(_FULL if IN_FULL else _LEAN), *always])
    meant = [
        # The tests of a place share a pair of shops, so one process runs them.
        pytest.param(Place(*one), id="-".join(one), marks=pytest.mark.xdist_group("-".join(one)))
        for one in chosen
        if one[0] in brokers and one[1] in pools
    ]
    return pytest.mark.parametrize("place", meant, scope="session")


class Shop:
    """One application: its broker, a Redis for what its tasks write down, and its workers.

    Args:
        settings: of the application, for Celery.
        takes_events: whether its workers have a step of their own that takes raw messages.
    """

    def __init__(
        self,
        directory: Path,
        broker: Broker,
        *,
        records_url: str,
        results_url: str,
        installs: bool,
        settings: dict[str, Any],
        takes_events: bool,
    ) -> None:
        self.installs = installs
        self.broker = broker
        self._directory = directory
        self._settings = settings
        self._results = results_url
        self._records = redis.Redis.from_url(records_url, decode_responses=True)
        self.app = self.publisher()
        self.environment = clean_environment(
            PYTHONPATH=os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")]),
            SHOP_BROKER=broker.url,
            SHOP_RESULTS=self._results,
            SHOP_RECORDS=records_url,
            SHOP_SETTINGS=json.dumps(settings),
            SHOP_INSTALLS="yes" if installs else "no",
            SHOP_TAKES_EVENTS="yes" if takes_events else "no",
            # So that an eventlet worker writes no page about its future.
            PYTHONWARNINGS="ignore",
        )
        self.workers: list[Worker] = []

    def __repr__(self) -> str:
        return f"<the shop {'with' if self.installs else 'without'} install>"

    def start(
        self,
        pool: str,
        *arguments: str,
        concurrency: int = 4,
        installs: bool | None = None,
    ) -> Worker:
        """Start a worker.

        Args:
            installs: ``None`` for what the shop does.
        """
        environment = dict(self.environment)
        if installs is not None:
            environment["SHOP_INSTALLS"] = "yes" if installs else "no"
        worker = Worker(
            self._directory,
            environment,
            app="battery.shop",
            pool=pool,
            concurrency=concurrency,
            name=f"worker{len(self.workers)}",
            arguments=arguments,
        )
        self.workers.append(worker)
        return worker

    def publisher(self, **settings: Any) -> Celery:
        """Make the application as another process has it, with other settings."""
        chosen = self._settings | settings
        return make_shop(self.broker.url, self._results, installs=self.installs, settings=chosen)

    def celery(self, *words: str) -> str:
        """Run one of Celery's own commands on the shop, and return what it writes."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "battery.shop", *words],
            cwd=self._directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def task(self, name: str) -> Any:
        return self.app.tasks[f"shop.{name}"]

    def send(self, name: str, *arguments: Any, **options: Any) -> AsyncResult:
        return self.task(name).apply_async(arguments, **options)

    def result(self, name: str, *arguments: Any) -> Any:
        return self.send(name, *arguments).get(timeout=_RESULT_SECONDS)

    def enqueue_goals(self, count: int) -> None:
        goals = ({"goal_id": _GOAL_ID, "customer_id": uuid.uuid4()} for _ in range(count))
        enqueue_goals(goals, app=self.app)

    def begun(self) -> list[str]:
        """Return the keys of all runs, in the order in which they began."""
        return [row.split()[0] for row in self._records.lrange(BEGUN, 0, -1)]

    def runs(self, prefix: str = "") -> Counter[str]:
        """Return how often each call has run whose key begins so."""
        return Counter(key for key in self.begun() if key.startswith(prefix))

    def pid_of(self, key: str) -> int:
        """Wait until a call runs, and return the process that it runs in."""
        rows = wait_until(
            lambda: [one for one in self._records.lrange(BEGUN, 0, -1) if one.split()[0] == key],
            f"{key} to begin in {self}",
        )
        return int(rows[0].split()[1])

    def ended(self, prefix: str = "") -> Counter[str]:
        rows = self._records.lrange(ENDED, 0, -1)
        return Counter(key for row in rows if (key := row.split()[0]).startswith(prefix))

    def settle(self, keys: Iterable[str], timeout_seconds: float = 60) -> None:
        """Wait until all these calls have run, and nothing is left that could run twice."""
        wanted = set(keys)
        self._wait(lambda: wanted <= set(self.ended()), f"{wanted} to run", timeout_seconds)
        self._wait(self.broker.is_empty, "the broker to be empty", timeout_seconds)
        self._wait(lambda: len(self.ended()) == len(self.runs()), "all to end", timeout_seconds)

    def _wait(self, probe: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        try:
            wait_until(probe, f"{what} in {self}", timeout_seconds)
        except AssertionError as error:
            logs = "\n".join(worker.log[-3000:] for worker in self.workers)
            raise AssertionError(f"{error}; ran: {dict(self.runs())}; logs:\n{logs}") from None

    def stats(self) -> dict[str, Any]:
        """Return what ``celery inspect stats`` shows of the first worker."""
        inspect = self.app.control.inspect(destination=[FIRST], timeout=5)
        return dict(wait_until(inspect.stats, f"{self} to answer")[FIRST])

    def queues(self) -> set[str]:
        """Return the names of the queues that the first worker takes messages of."""
        inspect = self.app.control.inspect(destination=[FIRST], timeout=5)
        found = wait_until(inspect.active_queues, f"{self} to answer")[FIRST]
        return {queue["name"] for queue in found}

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self._records.close()
        self.app.backend.client.close()
        self.app.close()


@dataclass
class Pair:
    """The shop as it always was, and the same with ``install``.

    Attributes:
        stock: as it always was.
        installed: with ``install``.
    """

    stock: Shop
    installed: Shop

    def __iter__(self) -> Iterator[Shop]:
        return iter((self.stock, self.installed))

    def each(self, action: Callable[[Shop], Any]) -> tuple[Any, Any]:
        """Do the same in both at once, and return both results."""
        with ThreadPoolExecutor(2) as threads:
            stock, installed = threads.map(action, self)
        return stock, installed

    def start(self, pool: str, *arguments: str, concurrency: int = 4, count: int = 1) -> None:
        """Start workers of both."""

        def start(shop: Shop) -> None:
            for _ in range(count):
                shop.start(pool, *arguments, concurrency=concurrency)

        self.each(start)

    def check_runs(self, expected: dict[str, int], prefix: str = "", **patience: float) -> None:
        """Wait until all have run, and compare how often each did."""
        self.each(lambda shop: shop.settle(expected, **patience))
        stock, installed = (dict(shop.runs(prefix)) for shop in self)
        assert stock == expected, f"already without install: {stock}"
        assert installed == expected, f"with install: {installed}"


@contextmanager
def _shop(
    directory: Path,
    broker: Broker,
    results_url: str,
    *,
    installs: bool,
    settings: dict[str, Any] | None = None,
    api_url: str = "",
    state_apart: bool = False,
    takes_events: bool = False,
) -> Iterator[Shop]:
    """Run a shop without a worker yet.

    Args:
        api_url: of the goals; nothing listens there unless it is given.
        state_apart: whether the package's state is in another Redis than the broker; on RabbitMQ
            it always is.
    """
    directory.mkdir()
    with embedded_server() as server, ExitStack() as stack:
        chosen = {"ninja_api_url": api_url or f"http://127.0.0.1:{free_port()}", **(settings or {})}
        if state_apart or not broker.url.startswith("redis"):
            chosen["ninja_redis_url"] = f"redis://127.0.0.1:{server.port}/1"
        shop = Shop(
            directory,
            broker,
            records_url=server.url,
            results_url=results_url,
            installs=installs,
            settings=chosen,
            takes_events=takes_events,
        )
        stack.callback(shop.end)
        yield shop


class Opener:
    """Opens shops, each in a directory and on a broker of its own, until the end of a test."""

    def __init__(
        self, directory: Path, results_url: str, node: Callable[[], Node], stack: ExitStack
    ) -> None:
        self._directory = directory
        self._results_url = results_url
        self._node = node
        self._stack = stack

    def shop(self, place: Place, *, installs: bool = True, **options: Any) -> Shop:
        directory = self._directory / f"shop{next(_directories)}"
        return self._stack.enter_context(
            _shop(directory, self._broker(place), self._results_url, installs=installs, **options)
        )

    def pair(self, place: Place, **options: Any) -> Pair:
        return Pair(
            self.shop(place, installs=False, **options), self.shop(place, installs=True, **options)
        )

    def _broker(self, place: Place) -> Broker:
        if place.broker == "redis":
            return self._stack.enter_context(redis_broker())
        return self._stack.enter_context(rabbitmq_broker(self._node()))


@dataclass(frozen=True)
class Latency:
    """How long calls took, in milliseconds."""

    median: float
    p90: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        deciles = statistics.quantiles(seconds, n=10)
        return cls(statistics.median(seconds) * 1000, deciles[8] * 1000)

    def __str__(self) -> str:
        return f"{self.median:.1f}/{self.p90:.1f} ms"


def interleaved(
    shops: Iterable[Shop], action: Callable[[Shop], object], rounds: int, calls: int = 1
) -> list[Latency]:
    """Time the same in several shops, by turns, so that what else the machine does hits all."""
    took: dict[int, list[float]] = {}
    turns = list(shops)
    for shop in turns:
        action(shop)
    for _ in range(rounds):
        for number, shop in enumerate(turns):
            for _ in range(calls):
                began = time.perf_counter()
                action(shop)
                took.setdefault(number, []).append(time.perf_counter() - began)
    return [Latency.of(took[number]) for number in range(len(turns))]


def numbered(word: str, count: int) -> list[str]:
    """Return keys for calls."""
    return [f"{word}-{number}" for number in range(count)]


def sampled(probe: Callable[[], int], seconds: float) -> list[int]:
    """Look again and again for a while."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        found.append(probe())
        time.sleep(0.03)
    return found

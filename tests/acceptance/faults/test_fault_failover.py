"""One address, behind which another Redis becomes the primary, while old connections stay open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery
from dropping_proxy import DroppingProxy
from fleet import Fleet, size
from stack import wait_until

from ninja_tasks import install
from ninja_tasks.testing import Answer, EmbeddedServer, embedded_server

if TYPE_CHECKING:
    from stack import Worker

RUNS = size(1, 4)
GOALS = size(60, 400)
_ALIVE_SECONDS = 2.0
_RESUME_SECONDS = 10.0


@dataclass
class Sides:
    """Two Redises of which one is the primary, and the address that leads to one of them."""

    primary: EmbeddedServer
    replica: EmbeddedServer
    address: DroppingProxy

    def change(self) -> None:
        """Let the replica become the primary, without losing a write."""
        with redis.Redis.from_url(self.primary.url) as client:
            client.execute_command("FAILOVER", "TO", "127.0.0.1", self.replica.port)
            wait_until(lambda: client.info("replication")["role"] == "slave", "the failover")
        with redis.Redis.from_url(self.replica.url) as client:
            wait_until(lambda: client.info("replication")["role"] == "master", "the failover")
        self.primary, self.replica = self.replica, self.primary

    def move_address(self) -> None:
        self.address.lead_to(self.primary.port)

    def wait_for_replica(self) -> None:
        with redis.Redis.from_url(self.primary.url) as client:
            wait_until(lambda: client.wait(1, 100) == 1, "the replica")


@pytest.fixture
def sides() -> Iterator[Sides]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(embedded_server()) for _ in range(2))
        with redis.Redis.from_url(second.url) as client:
            client.replicaof("127.0.0.1", first.port)
        address = stack.enter_context(DroppingProxy(first.port))
        found = Sides(first, second, address)
        found.wait_for_replica()
        yield found


def moved(fleet: Fleet, sides: Sides) -> Fleet:
    """Return the fleet with its Redis behind the address."""
    url = f"redis://127.0.0.1:{sides.address.port}/0"
    app = install(Celery("shop", broker=url, set_as_current=False))
    return replace(
        fleet,
        app=app,
        broker=sides.primary,
        settings=fleet.settings | {"CELERY_BROKER_URL": url},
        workers=fleet.workers,
    )


def delivers(worker: Worker) -> Callable[[], bool]:
    """Return a function that says whether a worker has delivered since now."""
    before = worker.log.count("succeeded in")
    return lambda: worker.log.count("succeeded in") > before


@pytest.mark.timeout(900)
def test_workers_follow_an_address_that_moves_and_are_not_alive_before_it_does(
    fleet: Fleet, sides: Sides, tmp_path: Path, fault: Callable[..., None]
) -> None:
    fleet = moved(fleet, sides)
    fleet.api.default = Answer(delay_seconds=0.1)
    files = {pool: tmp_path / pool for pool in ("threads", "prefork")}
    workers = [
        worker
        for pool, file in files.items()
        for worker in fleet.start(
            pool=pool, concurrency=4, rate_limit="none", liveness_file=str(file)
        )
    ]
    for file in files.values():
        wait_until(file.exists, "a liveness file")
    ids: list[str] = []
    longest = 0.0
    for _ in range(RUNS):
        ids += fleet.enqueue(GOALS)
        fresh = [delivers(worker) for worker in workers]
        wait_until(lambda fresh=fresh: all(one() for one in fresh), "both to deliver")
        sides.change()
        stuck = time.time()
        fleet = replace(fleet, broker=sides.primary, workers=fleet.workers)
        wait_until(lambda stuck=stuck: time.time() > stuck + 3 * _ALIVE_SECONDS, "some rounds")
        for file in files.values():
            assert file.stat().st_mtime < stuck + 1.0, "alive on a Redis that takes no writes"
        sides.move_address()
        back = time.monotonic()
        ids += fleet.enqueue(GOALS)
        fresh = [delivers(worker) for worker in workers]
        wait_until(lambda fresh=fresh: all(one() for one in fresh), "both to resume")
        longest = max(longest, time.monotonic() - back)
        for file in files.values():
            wait_until(lambda file=file: time.time() - file.stat().st_mtime < 1.0, "to be alive")
    fates = fleet.wait_for_fates(ids)
    fault(f"Redis failed over behind one address, {RUNS} times", fates, longest)
    fleet.stop()
    assert longest < _RESUME_SECONDS
    assert fates.lost == fates.unmarked == 0

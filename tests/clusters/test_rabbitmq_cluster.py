"""A quorum queue on three RabbitMQ nodes, and the node that leads it dies or stands still.

A goal is lost if its id was returned, and it is neither delivered nor dead when all is quiet.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from fleet import GOAL_ID, Fates, Fleet, size
from kombu import Exchange, Queue
from rabbitmq_node import Cluster, Node
from stack import wait_until

from ninja_tasks import PublishError, enqueue_goal, install
from ninja_tasks.delivery.parking import ParkedGoal, Parking
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import Answer, FakeSalesNinja, embedded_server

PER_SECOND = 100
GOALS = size(1000, 3000)
PARKED = size(400, 1500)
ROUNDS = size(1, 3)
AWAY_SECONDS = size(5, 10)
STOPPED_SECONDS = size(8, 20)
THREADS = 4
QUIET_SECONDS = 150
ARGUMENTS = {"x-queue-type": "quorum"}
CONFIGURATION = f"""
from kombu import Exchange, Queue
task_queues = [Queue("ninja_tasks", Exchange("ninja_tasks"), routing_key="ninja_tasks",
                     queue_arguments={ARGUMENTS})]
"""


@contextmanager
def fleet_on(cluster: Cluster, directory: Path) -> Iterator[Fleet]:
    """Run a fleet whose queue is on the cluster and whose state is in a Redis."""
    with embedded_server() as state, FakeSalesNinja(keep_bodies=False) as api:
        api.default = Answer(delay_seconds=0.05)
        settings = {
            "CELERY_BROKER_URL": cluster.url,
            "NINJA_REDIS_URL": state.url,
            "NINJA_API_URL": api.url,
            "NINJA_RATE_LIMIT": "none",
        }
        directory.joinpath("celeryconfig.py").write_text(CONFIGURATION)
        app = install(Celery("shop", broker=cluster.url, set_as_current=False))
        exchange = Exchange("ninja_tasks")
        queue = Queue("ninja_tasks", exchange, "ninja_tasks", queue_arguments=ARGUMENTS)
        app.conf.update(ninja_redis_url=state.url, task_queues=[queue])
        fleet = Fleet(app, state, api, None, directory, settings)
        try:
            yield fleet
            fleet.stop()
        finally:
            for worker in fleet.workers:
                worker.end()


class Producers:
    """Threads that enqueue goals at a steady pace, and what they were told."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.ids: list[str] = []
        self.refused = 0
        self.slowest_seconds = 0.0

    def run(self, goals: int) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda number: self._enqueue(number, began), range(goals)))

    def _enqueue(self, number: int, began: float) -> None:
        time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        before = time.monotonic()
        try:
            goal = {"goal_id": GOAL_ID, "customer_id": uuid.uuid4()}
            self.ids.append(enqueue_goal(**goal, app=self._app))
        except PublishError:
            self.refused += 1
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - before)


def die(node: Node) -> None:
    node.kill()
    threading.Event().wait(AWAY_SECONDS)
    node.start()


def stand_still(node: Node) -> None:
    node.signal(signal.SIGSTOP)
    try:
        threading.Event().wait(STOPPED_SECONDS)
    finally:
        node.signal(signal.SIGCONT)


def trouble(cluster: Cluster, fault: Callable[[Node], None], after_seconds: float) -> Any:
    """Let something happen to the node that leads the queue, while the test goes on."""
    leader = cluster.leader_of("ninja_tasks")

    def happen() -> None:
        threading.Event().wait(after_seconds)
        fault(leader)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(happen)
    pool.shutdown(wait=False)
    return future


def all_nodes_answer(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.wait_until_ready()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("fault", [die, stand_still])
def test_no_goal_whose_id_was_returned_is_lost_when_the_leader_is_in_trouble(
    cluster: Cluster,
    tmp_path: Path,
    fault: Callable[[Node], None],
    number: int,
    measured: Callable[..., None],
) -> None:
    with fleet_on(cluster, tmp_path) as fleet:
        fleet.start(2)
        # The producers' first connection is to the node that will be in trouble.
        leader = cluster.leader_of("ninja_tasks")
        others = [node.url for node in cluster.nodes if node is not leader]
        fleet.app.conf.broker_url = ";".join([leader.url, *others])
        happened = trouble(cluster, fault, GOALS / PER_SECOND / 4)
        producers = Producers(fleet.app)
        producers.run(GOALS)
        happened.result()
        fates = fleet.wait_for_fates(producers.ids, QUIET_SECONDS)
        all_nodes_answer(cluster)
    measured(
        fault=fault.__name__,
        goals=GOALS,
        confirmed=len(producers.ids),
        refused=producers.refused,
        lost=fates.lost,
        twice=fates.duplicated,
        unmarked=fates.unmarked,
        slowest_enqueue_seconds=round(producers.slowest_seconds, 1),
        longest_pause_seconds=longest_pause(fates),
    )
    assert fates.lost == fates.unmarked == 0
    assert len(producers.ids) + producers.refused == GOALS
    assert len(producers.ids) > GOALS / 2


@pytest.mark.timeout(600)
def test_no_parked_goal_is_lost_when_it_is_moved_through_the_death_of_the_leader(
    cluster: Cluster, tmp_path: Path, measured: Callable[..., None]
) -> None:
    seconds = PARKED / 50
    with fleet_on(cluster, tmp_path) as fleet:
        fleet.start(2)
        happened = trouble(cluster, die, seconds / 3)
        ids = park(fleet, seconds)
        happened.result()
        fates = fleet.wait_for_fates(ids, QUIET_SECONDS)
        all_nodes_answer(cluster)
    measured(
        parked=PARKED,
        lost=fates.lost,
        twice=fates.duplicated,
        unmarked=fates.unmarked,
        longest_pause_seconds=longest_pause(fates),
    )
    assert fates.lost == fates.unmarked == 0


def park(fleet: Fleet, seconds: float) -> list[str]:
    """Park goals that come due one by one."""
    ids = [str(uuid.uuid4()) for _ in range(PARKED)]
    now = datetime.now(UTC)
    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        parking = Parking(client, Keys("ninja:"))
        for number, delivery_id in enumerate(ids):
            body = {
                "GoalId": GOAL_ID,
                "CustomerId": str(uuid.uuid4()),
                "CreatedOnUtc": now.strftime("%Y-%m-%d %H:%M:%S.%f"),
            }
            goal = ParkedGoal(body, {"ninja_enqueued_at": now.isoformat()}, retries=1)
            parking.park(delivery_id, goal, enqueued_at=now, seconds=5 + number * seconds / PARKED)
    wait_until(lambda: fleet.numbers().parked > 0, "the goals to be parked")
    return ids


def longest_pause(fates: Fates) -> float:
    """Return the longest time without a delivery."""
    times = sorted(fates.delivered_at.values())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return round(max(gaps, default=0.0), 1)

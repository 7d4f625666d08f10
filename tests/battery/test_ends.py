"""A worker's end, and a child's, cost the shop's tasks no more with ``install`` than without."""

from __future__ import annotations

import os
import signal

import pytest
from stack import wait_until

from battery.rig import Opener, Place, Shop, numbered, places

_LEASE_SECONDS = 5


@places()
def test_tasks_run_once_where_a_worker_ends_amid_them(opened: Opener, place: Place) -> None:
    pair = opened.pair(place)
    early, late = numbered("early", 8), numbered("late", 8)
    pair.start(place.pool, concurrency=2)

    def end_amid(shop: Shop) -> None:
        for one, other in zip(early, late, strict=True):
            shop.send("nap", one, 0.3)
            shop.send("late_nap", other, 0.3)
        wait_until(lambda: len(shop.begun()) >= 2, f"two tasks to begin in {shop}")
        assert shop.workers[0].stop() == 0
        shop.start(place.pool, concurrency=2)

    pair.each(end_amid)
    pair.check_runs(dict.fromkeys([*early, *late], 1))


@places(pools=("prefork",))
@pytest.mark.parametrize(
    ("name", "runs"), [("nap", 1), ("late_nap", 1), ("stubborn_nap", 2)], ids=lambda one: str(one)
)
def test_a_killed_child_costs_its_own_task_alone(
    opened: Opener, place: Place, name: str, runs: int
) -> None:
    pair, others = opened.pair(place), numbered("other", 8)
    pair.start(place.pool, concurrency=2)

    def kill_amid(shop: Shop) -> None:
        shop.send(name, "victim", 3)
        for key in others:
            shop.send("nap", key, 0.3)
        os.kill(shop.pid_of("victim"), signal.SIGKILL)
        wait_until(lambda: set(others) <= set(shop.ended()), f"the others to end in {shop}")
        wait_until(lambda: shop.runs()["victim"] >= runs, f"the victim to run in {shop}")
        wait_until(shop.broker.is_empty, f"the broker to be empty in {shop}")

    pair.each(kill_amid)
    expected = {"victim": runs, **dict.fromkeys(others, 1)}
    assert [dict(shop.runs()) for shop in pair] == [expected] * 2


@places(brokers=("redis",), pools=("prefork",))
@pytest.mark.parametrize(
    ("before", "after"),
    [(False, False), (False, True), (True, False)],
    ids=["without install", "to install", "from install"],
)
def test_what_a_killed_worker_held_comes_back_in_the_next_one(
    opened: Opener, place: Place, before: bool, after: bool
) -> None:
    options = {
        "visibility_timeout": _LEASE_SECONDS,
        # Else Celery looks every hundred seconds.
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    }
    shop = opened.shop(place, settings={"broker_transport_options": options})
    killed, keys = shop.start(place.pool, concurrency=1, installs=before), numbered("held", 3)
    for key in keys:
        shop.send("late_nap", key, 1)
    shop.pid_of(keys[0])
    killed.kill()
    shop.start(place.pool, concurrency=1, installs=after)
    shop.settle(keys, timeout_seconds=25)
    assert shop.runs() == {keys[0]: 2, keys[1]: 1, keys[2]: 1}

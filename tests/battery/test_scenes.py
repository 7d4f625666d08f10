"""Scenes that need workers, queues or settings of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from fleet import IN_FULL
from kombu import Queue
from stack import wait_until

from battery.rig import Opener, Place, Shop, numbered, places, sampled
from battery.shop import EVENTS
from ninja_tasks.testing import Answer, FakeSalesNinja

_RESULT_SECONDS = 30
#: Longer than any short lease, which a worker that does one thing at a time may not renew.
_LONG_SECONDS = 9.0
_LONG_ONES = (["nap", "late_nap"] * 2, ["nap"], ["late_nap"])
_PRIORITIES = (5, 0, 9, 3, 7, 1, 9, 0, 4)


@places()
def test_tasks_with_a_rate_limit_run_once_between_two_workers(opened: Opener, place: Place) -> None:
    pair, keys = opened.pair(place), numbered("limited", 6)
    pair.start(place.pool, concurrency=1, count=2)
    for shop in pair:
        for key in keys:
            shop.send("limited", key)
    pair.check_runs(dict.fromkeys(keys, 1))


@places(pools=("solo",), always=[("redis", "solo")])
@pytest.mark.parametrize("names", _LONG_ONES if IN_FULL else _LONG_ONES[:1], ids=",".join)
def test_long_tasks_run_once_between_two_solo_workers(
    opened: Opener, place: Place, names: list[str]
) -> None:
    pair, keys = opened.pair(place), numbered("long", len(names))
    pair.start(place.pool, count=2)
    for shop in pair:
        for key, name in zip(keys, names, strict=True):
            shop.send(name, key, _LONG_SECONDS)
    pair.check_runs(dict.fromkeys(keys, 1))


@places()
def test_tasks_begin_in_the_order_of_their_priority(opened: Opener, place: Place) -> None:
    pair = opened.pair(place, settings=priority_settings(place))
    keys = [f"{number}-{priority}" for number, priority in enumerate(_PRIORITIES)]
    for shop in pair:
        queue = Queue("ranked", queue_arguments={"x-max-priority": 9})
        for key, priority in zip(keys, _PRIORITIES, strict=True):
            shop.send("note", key, priority=priority, queue=queue)
    pair.start(place.pool, "-Q", "ranked", concurrency=1)
    pair.check_runs(dict.fromkeys(keys, 1))
    stock, installed = (shop.begun() for shop in pair)
    ranks = [int(key.rpartition("-")[2]) for key in stock]
    assert ranks == sorted(ranks, reverse=place.broker == "rabbitmq"), "without install"
    assert installed == stock


def priority_settings(place: Place) -> dict[str, Any]:
    settings: dict[str, Any] = {"worker_prefetch_multiplier": 1}
    if place.broker == "redis":
        steps = {"queue_order_strategy": "priority", "priority_steps": list(range(10))}
        return settings | {"broker_transport_options": steps}
    return settings | {"task_queue_max_priority": 9}


@places(brokers=("redis",), pools=("prefork", "threads", "gevent", "eventlet"))
@pytest.mark.parametrize("way", ["--disable-prefetch", "worker_disable_prefetch"])
def test_a_worker_without_prefetch_holds_only_what_it_runs(
    opened: Opener, place: Place, way: str
) -> None:
    option = way.startswith("-")
    settings = {} if option else {"worker_disable_prefetch": True}
    pair, keys = opened.pair(place, settings=settings), numbered("nap", 6)
    for shop in pair:
        for key in keys:
            shop.send("late_nap", key, 1.0)
    pair.start(place.pool, *([way] if option else []), concurrency=2)
    assert pair.each(least_waiting) == (4, 4)
    pair.check_runs(dict.fromkeys(keys, 1))


def least_waiting(shop: Shop) -> int:
    """Return how many messages wait while the first two run."""
    wait_until(lambda: len(shop.begun()) >= 2, f"two tasks to begin in {shop}")
    return min(sampled(lambda: shop.broker.waiting("celery"), 0.5))


@places()
def test_a_consumer_step_of_the_shop_gets_each_raw_message_once(
    opened: Opener, place: Place
) -> None:
    pair, keys = opened.pair(place, takes_events=True), numbered("event", 25)
    pair.start(place.pool)
    for shop in pair:
        with shop.app.connection_for_write() as connection, connection.SimpleQueue(EVENTS) as queue:
            for key in keys:
                queue.put({"key": key}, serializer="json")
    # The last five are held until the step's own timer comes.
    pair.check_runs(dict.fromkeys(keys, 1))


@places(pools=("prefork",))
def test_a_running_task_that_is_terminated_ends_and_the_next_one_runs(
    opened: Opener, place: Place
) -> None:
    pair = opened.pair(place)
    pair.start(place.pool, concurrency=1)

    def terminate(shop: Shop) -> None:
        victim = shop.send("nap", "victim", 60)
        shop.pid_of("victim")
        shop.app.control.revoke(victim.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            victim.get(timeout=_RESULT_SECONDS)
        assert shop.result("note", "next") == "next"

    pair.each(terminate)
    assert [dict(shop.runs()) for shop in pair] == [{"victim": 1, "next": 1}] * 2
    assert [dict(shop.ended()) for shop in pair] == [{"next": 1}] * 2


@places(pools=("prefork",))
def test_a_purge_deletes_the_shops_messages_and_no_goals(opened: Opener, place: Place) -> None:
    pair = opened.pair(place)
    for shop in pair:
        for key in numbered("purged", 5):
            shop.send("note", key)
    pair.installed.enqueue_goals(5)
    stock, installed = pair.each(lambda shop: shop.celery("purge", "--force"))
    assert "5 messages" in stock
    assert installed == stock
    assert pair.installed.broker.waiting("celery") == 0
    assert pair.installed.broker.waiting("ninja_tasks") == 5


@places()
@pytest.mark.parametrize("arguments", ["-Q celery", "-X ninja_tasks"])
def test_a_worker_that_leaves_goals_alone_does_the_shops_tasks(
    opened: Opener, place: Place, arguments: str
) -> None:
    with FakeSalesNinja() as api:
        shop = opened.shop(place, api_url=api.url)
        shop.start(place.pool, *arguments.split())
        shop.enqueue_goals(5)
        keys = numbered("own", 5)
        assert [shop.result("note", key) for key in keys] == keys
        assert dict(shop.runs()) == dict.fromkeys(keys, 1)
        assert shop.broker.waiting("ninja_tasks") == 5
        assert api.requests == []


@places()
def test_tasks_run_once_beside_500_goals_and_a_slow_api(opened: Opener, place: Place) -> None:
    keys = [*numbered("plain", 20), *numbered("late", 8), *numbered("limited", 3), "countdown"]
    with FakeSalesNinja(keep_bodies=False) as api:
        api.default = Answer(delay_seconds=0.1)
        pair = opened.pair(place, api_url=api.url)
        pair.start(place.pool)
        pair.installed.enqueue_goals(500)
        api.wait_for(1, delivered=False)
        pair.each(lambda shop: send_all(shop, keys))
        pair.each(lambda shop: wait_until(all_ended(shop, keys), f"all to run in {shop}", 60))
        stock, installed = (dict(shop.runs()) for shop in pair)
    assert stock == dict.fromkeys(keys, 1)
    assert installed == stock


def send_all(shop: Shop, keys: list[str]) -> None:
    for key in keys:
        word = key.partition("-")[0]
        if word == "late":
            shop.send("late_nap", key, 0.5)
        elif word == "limited":
            shop.send("limited", key)
        else:
            shop.send("note", key, countdown=3 if word == "countdown" else None)


def all_ended(shop: Shop, keys: list[str]) -> Callable[[], bool]:
    return lambda: set(keys) <= set(shop.ended())

"""The shop's worker is the same with ``install``: its settings, what it shows, and what it asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from stack import wait_until

from battery.rig import Opener, Pair, Place, Shop, places

_IDLE_SECONDS = 5.0
#: What an idle worker may ask the broker for goals, beside what it asks for the shop.
_MORE_PER_SECOND = 5.0
_OF_THE_BROKER = ("address", "broker_url", "broker_read_url", "broker_write_url")
_OF_THE_TRANSPORT = ("broker_transport", "broker_transport_options", "broker_use_ssl")
#: ``install`` adds a route for its own task, and a worker lists the modules of all tasks.
_OURS = ("task_routes", "include")
#: These differ since each shop has a broker and a Redis of its own.
_ADDRESSES = ("result_backend", "ninja_api_url", "ninja_redis_url")


def settings_of(shop: Shop) -> dict[str, str]:
    found: dict[str, str] = shop.result("settings_in_force")
    address = urlsplit(shop.broker.url)
    place = f"{address.hostname}:{address.port}{address.path}"
    return {name: value.replace(place, "BROKER") for name, value in found.items()}


@places()
def test_the_worker_has_the_shops_broker_and_transport(running: Pair) -> None:
    stock, installed = running.each(settings_of)
    names = (*_OF_THE_BROKER, *_OF_THE_TRANSPORT)
    assert {name: installed.get(name) for name in names} == {
        name: stock.get(name) for name in names
    }


@places()
def test_every_other_setting_of_the_worker_is_the_shops(running: Pair) -> None:
    stock, installed = running.each(settings_of)
    for name in (*_OF_THE_BROKER, *_OF_THE_TRANSPORT, *_OURS, *_ADDRESSES):
        stock.pop(name, None)
        installed.pop(name, None)
    assert installed == stock


@places()
def test_stats_show_the_same_transport(running: Pair) -> None:
    stock, installed = ({**shop.stats()["broker"]} for shop in running)
    for one in (stock, installed):
        for of_each_shop in ("port", "virtual_host"):
            one.pop(of_each_shop)
    assert installed == stock


@places()
def test_stats_show_the_same_prefetch_count(running: Pair) -> None:
    stock, installed = running.each(lambda shop: shop.stats()["prefetch_count"])
    assert installed == stock


@places()
def test_stats_show_the_same_pool(running: Pair) -> None:
    stock, installed = running.each(lambda shop: without_counts(shop.stats()["pool"]))
    assert installed == stock


def without_counts(pool: Any) -> Any:
    """Leave out what differs between any two workers."""
    varying = ("processes", "writes", "threads", "free-threads", "running-threads")
    return {key: value for key, value in dict(pool).items() if key not in varying}


@places()
def test_an_idle_worker_asks_the_broker_hardly_more(
    opened: Opener, place: Place, compared: Callable[..., None]
) -> None:
    pair = opened.pair(place, state_apart=True)
    pair.start(place.pool)
    for shop in pair:
        shop.result("echo", 1)
    stock, installed = pair.each(asked_per_second)
    connections = [shop.broker.connections() for shop in pair]
    compared(f"{stock:.1f}/s, {connections[0]} connections", f"{installed:.1f}/s, {connections[1]}")
    assert installed <= stock + _MORE_PER_SECOND


def asked_per_second(shop: Shop) -> float:
    """Count for some seconds, from when the first ones after the start are over."""
    settled = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > settled)
    before, began = shop.broker.asked(), time.monotonic()
    wait_until(lambda: time.monotonic() > began + _IDLE_SECONDS)
    return (shop.broker.asked() - before) / (time.monotonic() - began)

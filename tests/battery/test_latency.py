"""The shop's tasks are as quick with ``install`` as without.

The two are measured by turns in one run. The bounds are far from what is wanted, 1.1, since a busy
machine must not fail the build; what was measured is printed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import chain

from battery.rig import Latency, Opener, Pair, Place, Shop, interleaved, places
from ninja_tasks.testing import Answer, FakeSalesNinja

_BOUND = 2.0
#: Goals that are being sent use the processors too.
_BOUND_BESIDE_SENDING = 4.0
_RESULT_SECONDS = 60


def call(shop: Shop) -> object:
    return shop.result("echo", 1)


def ten_in_a_chain(shop: Shop) -> object:
    first, *others = [shop.task("echo").si(number) for number in range(10)]
    return chain(first, *others).apply_async().get(timeout=_RESULT_SECONDS)


def ratio_of(compared: Callable[..., None], without: Latency, with_: Latency) -> float:
    ratio = with_.median / without.median
    compared(without, with_, ratio)
    return ratio


@places()
def test_a_result_comes_as_soon_as_without(running: Pair, compared: Callable[..., None]) -> None:
    stock, installed = interleaved(running, call, rounds=25, calls=4)
    assert ratio_of(compared, stock, installed) <= _BOUND


@places()
def test_a_task_that_comes_after_a_pause_begins_as_soon_as_without(
    running: Pair, compared: Callable[..., None]
) -> None:
    # By turns and one by one: while one shop is measured the other one has nothing to do.
    stock, installed = interleaved(running, call, rounds=40)
    assert ratio_of(compared, stock, installed) <= _BOUND


@places()
def test_a_chain_of_ten_ends_as_soon_as_without(
    running: Pair, compared: Callable[..., None]
) -> None:
    stock, installed = interleaved(running, ten_in_a_chain, rounds=10)
    assert ratio_of(compared, stock, installed) <= _BOUND


@places(pools=("prefork", "threads"))
@pytest.mark.parametrize("api_seconds", [0.02, 10.0], ids=["quick API", "API of 10 s"])
def test_a_result_comes_as_soon_beside_2000_waiting_goals(
    opened: Opener, place: Place, api_seconds: float, compared: Callable[..., None]
) -> None:
    concurrency = 4 if place.pool == "prefork" else 8
    with FakeSalesNinja(keep_bodies=False) as api:
        api.default = Answer(delay_seconds=api_seconds)
        pair = opened.pair(place, api_url=api.url)
        pair.start(place.pool, concurrency=concurrency)
        pair.installed.enqueue_goals(2000)
        # As many as a worker sends at once, which leaves half of its pool to the shop.
        api.wait_for(concurrency // 2, delivered=False)
        without, with_ = interleaved(pair, call, rounds=30)
        pair.each(Shop.end)
    bound = _BOUND_BESIDE_SENDING if api_seconds < 1 else _BOUND
    assert ratio_of(compared, without, with_) <= bound

"""The shop's tasks run as often with ``install`` as without."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from stack import wait_until

from battery.rig import FIRST, Pair, Place, Shop, places

_COUNTDOWN_SECONDS = 3
#: Longer than any short lease.
_LONG_SECONDS = 9
_RESULT_SECONDS = 30


def new_keys(word: str, count: int = 1) -> list[str]:
    """Return keys that no other test has."""
    start = f"{word}-{uuid.uuid4().hex[:8]}"
    return [f"{start}-{number}" for number in range(count)]


@places()
def test_a_task_runs_once_and_its_result_comes_back(running: Pair) -> None:
    keys = new_keys("plain", 20)
    for shop in running:
        assert [shop.result("note", key) for key in keys] == keys
    running.check_runs(dict.fromkeys(keys, 1), prefix_of(keys))


@places()
def test_each_link_of_a_chain_runs_once(running: Pair) -> None:
    keys = new_keys("chain", 10)
    for shop in running:
        first, *others = keys
        links = [shop.task("step").s(0, first), *(shop.task("step").s(key) for key in others)]
        assert chain(*links).apply_async().get(timeout=_RESULT_SECONDS) == 10
    running.check_runs(dict.fromkeys(keys, 1), prefix_of(keys))


@places()
def test_a_group_runs_once_and_its_chord_after_it(running: Pair) -> None:
    body, *keys = new_keys("chord", 9)
    for shop in running:
        header = group(shop.task("step").s(number, key) for number, key in enumerate(keys))
        result = chord(header)(shop.task("total").s(body))
        assert result.get(timeout=_RESULT_SECONDS) == sum(range(1, 9))
    running.check_runs(dict.fromkeys([body, *keys], 1), prefix_of(keys))


@places()
def test_a_task_with_a_countdown_runs_once_and_not_before(running: Pair) -> None:
    (key,) = keys = new_keys("countdown")

    def wait(shop: Shop) -> float:
        began = time.monotonic()
        result = shop.send("note", key, countdown=_COUNTDOWN_SECONDS)
        assert result.get(timeout=_RESULT_SECONDS) == key
        return time.monotonic() - began

    stock, installed = running.each(wait)
    assert min(stock, installed) > _COUNTDOWN_SECONDS - 0.5
    assert installed < stock + 1
    running.check_runs({key: 1}, prefix_of(keys))


@places()
def test_a_task_that_asks_for_two_retries_runs_three_times(running: Pair) -> None:
    (key,) = keys = new_keys("retried")
    assert running.each(lambda shop: shop.result("again", key)) == (2, 2)
    running.check_runs({key: 3}, prefix_of(keys))


@places()
@pytest.mark.parametrize("name", ["nap", "late_nap"])
def test_early_and_late_tasks_run_once(running: Pair, name: str) -> None:
    keys = new_keys(name, 8)
    for shop in running:
        for key in keys:
            shop.send(name, key, 0.1)
    running.check_runs(dict.fromkeys(keys, 1), prefix_of(keys))


@places()
def test_messages_of_protocol_1_run_once(running: Pair, place: Place) -> None:
    early, late, eta = keys = new_keys("protocol1", 3)
    # Where a worker does one thing at a time, the second waits as long as a lease.
    seconds = _LONG_SECONDS if place.pool != "solo" else _LONG_SECONDS / 2
    due = datetime.now(UTC) + timedelta(seconds=_LONG_SECONDS)

    def send(shop: Shop) -> None:
        with shop.publisher(task_protocol=1) as publisher:
            tasks = publisher.tasks
            tasks["shop.nap"].apply_async((early, seconds))
            tasks["shop.late_nap"].apply_async((late, seconds))
            tasks["shop.nap"].apply_async((eta, 0), eta=due)

    running.each(send)
    running.check_runs(dict.fromkeys(keys, 1), prefix_of(keys))


@places()
def test_a_task_that_is_revoked_before_its_turn_does_not_run(running: Pair) -> None:
    revoked, after = keys = new_keys("revoked", 2)

    def revoke(shop: Shop) -> None:
        result = shop.send("note", revoked, countdown=2)
        shop.app.control.revoke(result.id)
        shop.send("note", after, countdown=3)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=_RESULT_SECONDS)

    running.each(revoke)
    running.check_runs({after: 1}, prefix_of(keys))


@places()
def test_a_queue_of_the_shop_is_taken_up_and_left_by_control(running: Pair) -> None:
    taken, other, left, last = keys = new_keys("extra", 4)

    def act(shop: Shop) -> tuple[int, int]:
        control = shop.app.control
        control.add_consumer("extra", destination=[FIRST])
        wait_until(lambda: "extra" in shop.queues(), f"{shop} to take up the queue")
        assert shop.send("note", taken, queue="extra").get(timeout=_RESULT_SECONDS) == taken
        control.cancel_consumer("extra", destination=[FIRST])
        wait_until(lambda: "extra" not in shop.queues(), f"{shop} to leave the queue")
        # What was asked of the broker before that is over when this one has come.
        assert shop.result("note", other) == other
        shop.send("note", left, queue="extra")
        assert shop.result("note", last) == last
        with shop.app.connection_for_write() as connection:
            return shop.broker.waiting("extra"), connection.default_channel.queue_purge("extra")

    assert running.each(act) == ((1, 1), (1, 1))
    running.check_runs({taken: 1, other: 1, last: 1}, prefix_of(keys))


def prefix_of(keys: list[str]) -> str:
    return keys[0].rpartition("-")[0]

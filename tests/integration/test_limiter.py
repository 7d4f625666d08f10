"""The limiter in a real Valkey: one limit for all workers, whatever they and the clock say."""

from __future__ import annotations

import time

import pytest
import redis
from integration.test_gate import Rig, client

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery.limiter import Limiter
from ninja_tasks.delivery.state import Keys

__all__ = ["client"]

TWENTY, THIRTY = RateLimit(20, 1), RateLimit(30, 1)


def limiter_of(
    client: redis.Redis, rate: RateLimit | None, worker: str = "w", age_milliseconds: float = 0
) -> Limiter:
    """Return the limiter as a worker knows it that has run for so long."""
    limiter = Limiter(rate, client, Keys("ninja:"), worker)
    limiter._started_at = time.monotonic() - age_milliseconds / 1000
    return limiter


@pytest.fixture
def rig(client: redis.Redis) -> Rig:
    return Rig(client)


def test_slots_are_handed_out_an_interval_apart_and_not_beyond_the_horizon(rig: Rig) -> None:
    limiter = limiter_of(rig.client, TWENTY)
    assert limiter.ask(100, holds=False).times() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert limiter.ask(100, holds=True).times() == []
    rig.later(100)
    assert limiter.ask(100, holds=True).times() == pytest.approx([0.15, 0.2])


def test_a_worker_that_holds_none_gets_one_slot_beyond_the_horizon(rig: Rig) -> None:
    first, second = (limiter_of(rig.client, RateLimit(1, 1), name) for name in "ab")
    assert first.ask(9, holds=False).times() == [0]
    assert second.ask(9, holds=False).times() == [1]
    assert first.ask(9, holds=False).times() == [2]
    assert second.ask(9, holds=True).times() == []


def test_a_slot_that_nobody_asked_for_is_not_made_up_for(rig: Rig) -> None:
    limiter = limiter_of(rig.client, RateLimit(10, 1))
    limiter.ask(1, holds=False)
    rig.later(10_000)
    assert limiter.ask(9, holds=False).times() == pytest.approx([0, 0.1, 0.2])


def test_during_a_rolling_change_all_workers_share_the_newer_limit(rig: Rig) -> None:
    old, new = limiter_of(rig.client, TWENTY, "old"), limiter_of(rig.client, THIRTY, "new")
    old._started_at -= 60
    assert old.ask(1, holds=False).rate == TWENTY
    assert new.ask(0, holds=False).rate == THIRTY
    given = 0
    for _ in range(20):
        for one in (old, new):
            grant = one.ask(100, holds=True)
            assert grant.rate == THIRTY
            given += grant.count
        rig.later(100)
    # In two seconds, and within the horizon after them.
    assert given <= 2.2 * 30 + 1


def test_a_limit_can_be_taken_away_and_come_back(rig: Rig) -> None:
    first = limiter_of(rig.client, TWENTY, "first", 3000)
    second = limiter_of(rig.client, None, "second", 2000)
    third = limiter_of(rig.client, THIRTY, "third", 1000)
    assert first.ask(1, holds=False).rate == TWENTY
    assert second.ask(1, holds=False).rate is None
    assert first.ask(1, holds=False).rate is None
    third.ask(0, holds=False)
    assert first.ask(1, holds=False).rate == THIRTY
    assert second.ask(1, holds=False).rate == THIRTY


def test_a_new_limit_does_not_wait_for_the_slots_of_the_old_one(rig: Rig) -> None:
    old = limiter_of(rig.client, RateLimit(1, 3600), "old", 1000)
    assert [old.ask(1, holds=False).times() for _ in range(2)] == [[0], [3600]]
    new = limiter_of(rig.client, RateLimit(100, 1), "new")
    assert new.ask(1, holds=False).times()[0] <= 0.2


def test_a_clock_that_is_set_back_stalls_nobody(rig: Rig) -> None:
    rig.at(600_000)
    limiters = [limiter_of(rig.client, TWENTY, str(number), 5000) for number in range(3)]
    for one in limiters:
        one.ask(100, holds=False)
    rig.at(0)
    assert limiters[0].ask(1, holds=False).times()[0] <= 0.2 + 4 * 0.05
    # A worker that starts now still has the last word.
    assert limiter_of(rig.client, THIRTY, "new").ask(1, holds=False).rate == THIRTY
    assert limiters[0].ask(1, holds=False).rate == THIRTY


def test_slots_are_handed_out_by_a_full_redis(rig: Rig) -> None:
    limiter = limiter_of(rig.client, TWENTY)
    rig.client.config_set("maxmemory", 1)
    try:
        assert limiter.ask(1, holds=False).count == 1
    finally:
        rig.client.config_set("maxmemory", 0)

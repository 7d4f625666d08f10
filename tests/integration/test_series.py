"""A series in a real Valkey: what came of a goal is confirmed by the question for the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis
from integration.test_gate import MOMENT, RECORD, Rig, client

from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.series import Series

__all__ = ["client"]

DELIVERED = Attempt(Outcome.DELIVERED, MOMENT, 12, status=200)


class Row(Rig):
    """A thread that delivers goals named by letters."""

    def __init__(self, client: redis.Redis, **configuration: Any) -> None:
        super().__init__(client, **configuration)
        self.ended = 0
        self.series = Series(self.gate, self.end)

    def end(self) -> None:
        self.ended += 1

    def deliver(self, name: str) -> None:
        record = replace(RECORD, delivery_id=name).after(DELIVERED)
        self.series.settle(record, DELIVERED, f"t-{name}", lambda news: None)


@pytest.fixture
def row(client: redis.Redis) -> Row:
    return Row(client, rate_limit="none")


def test_what_came_of_a_goal_is_confirmed_when_the_next_one_has_asked(row: Row) -> None:
    for name in "abc":
        assert row.answer(name) is Answer.GO
        row.deliver(name)
    assert (row.series.left, row.series.confirmed, row.ended) == (3, 2, 2)
    row.series.catch_up()
    assert (row.series.left, row.series.confirmed, row.ended) == (3, 3, 3)
    for name in "abc":
        entry = row.gate.ledger_entry(name)
        assert entry is not None
        assert (entry.attempts, entry.possible_duplicate) == (1, False)
        assert entry.delivered_at


def test_one_round_trip_settles_a_goal_and_asks_about_the_next(row: Row) -> None:
    # Redis knows both scripts after the first two goals.
    for name in "ab":
        row.answer(name)
        row.deliver(name)
    before = row.client.info("stats")["total_reads_processed"]
    row.answer("c")
    # The second question of this client is one read more.
    assert row.client.info("stats")["total_reads_processed"] - before == 2

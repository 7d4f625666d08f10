"""A series in a real Valkey: what is reserved, what begins, what is in doubt after a death."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from integration.test_gate import CLOCK, MOMENT, RECORD, Rig

from ninja_tasks.delivery import scripts, series
from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.series import Series, Upcoming
from ninja_tasks.testing import EmbeddedServer

DELIVERED = Attempt(Outcome.DELIVERED, MOMENT, 12, status=200)


class Row(Rig):
    """A thread that delivers goals named by letters, and looks one ahead."""

    def __init__(self, client: redis.Redis, **configuration: Any) -> None:
        super().__init__(client, **configuration)
        self.next: Upcoming | None = None
        self.ended = 0
        self.series = Series(self.gate, lambda: self.next, self.end)
        # The scripts become known, as they are to a worker that has delivered a goal.
        self.admit("known")
        self.settle(Outcome.DELIVERED, "known")

    def end(self) -> None:
        self.ended += 1

    def ask(self, name: str, then: str | None = None, **headers: Any) -> Answer:
        """Let a goal ask in its turn, while another may come next."""
        self.next = Upcoming(then, headers, f"t-{then}") if then else None
        self.series.token = f"t-{name}"
        self.series.ask_about_next()
        return self.answer(name)

    def deliver(self, name: str) -> None:
        """Let the API answer."""
        self.series.catch_up()
        record = replace(RECORD, delivery_id=name).after(DELIVERED)
        self.series.settle(record, DELIVERED, lambda news: None)

    def begin(self, name: str, then: str | None = None) -> bool:
        self.next = Upcoming(then, {}, f"t-{then}") if then else None
        self.series.token = f"t-{name}"
        return self.series.begin(name)

    def page(self, name: str) -> str | None:
        page: str | None = self.client.get(f"ninja:l:{name}")
        return page


@pytest.fixture
def client(ninja_redis: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    read = scripts.read
    monkeypatch.setattr(scripts, "read", lambda name: CLOCK if name == "clock" else read(name))
    with redis.Redis.from_url(ninja_redis.url, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def row(client: redis.Redis) -> Row:
    return Row(client, rate_limit="none")


def test_a_goal_begins_with_the_word_of_what_came_of_the_last_and_without_a_wait(row: Row) -> None:
    assert row.ask("a", then="b") is Answer.GO
    row.deliver("a")
    assert row.begin("b", then="c")
    row.deliver("b")
    assert row.begin("c")
    row.deliver("c")
    row.series.catch_up()
    assert (row.series.left, row.series.confirmed, row.ended) == (3, 3, 3)
    for name in "abc":
        entry = row.gate.ledger_entry(name)
        assert entry is not None
        assert (entry.attempts, entry.possible_duplicate) == (1, False)
        assert entry.delivered_at


def test_a_reserved_goal_is_not_sent_by_another_worker_meanwhile(row: Row) -> None:
    row.ask("a", then="b")
    assert row.answer("b", "another") is Answer.BUSY


@pytest.mark.parametrize("milliseconds", [0, 29_000, 31_000])
def test_a_reserved_goal_whose_worker_dies_is_not_in_doubt(row: Row, milliseconds: int) -> None:
    row.ask("a", then="b")
    row.lose_worker().later(milliseconds)
    admission = row.admit("b", "another", stop_on_doubt=True)
    assert (admission.answer, admission.record) == (Answer.GO, replace(RECORD, delivery_id="b"))


def test_a_reservation_ends_even_if_its_worker_lives(row: Row) -> None:
    row.ask("a", then="b")
    assert row.later(29_000).answer("b", "another") is Answer.BUSY
    assert row.later(1_001).answer("b", "another") is Answer.GO


def test_a_goal_that_began_is_in_doubt_if_its_worker_dies(row: Row) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    assert row.begin("b")
    # Redis has run what was sent to it before.
    assert row.page("b") is not None
    assert row.later(60_000).answer("b", "another") is Answer.BUSY
    row.lose_worker()
    admission = row.admit("b", "another")
    assert (admission.answer, admission.record.doubtful) == (Answer.GO, 1)


def test_a_reservation_that_is_asked_for_too_late_takes_nothing_from_a_goal_that_began(
    row: Row,
) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    assert row.begin("b")
    before = row.page("b")
    # Another thread of this process saw the same goal come next.
    row.gate.reserve("b", "t-b", lambda word: None)
    row.series.catch_up()
    assert row.page("b") == before
    assert row.lose_worker().admit("b", "another").record.doubtful == 1


def test_a_goal_that_another_thread_of_the_process_took_continues_its_reservation(row: Row) -> None:
    row.ask("a", then="b")
    assert row.answer("b", "t-b") is Answer.GO
    row.lose_worker()
    assert row.admit("b", "another").record.doubtful == 1


@pytest.mark.parametrize("before", ["claimed", "failed", "delivered", "lost"])
def test_a_goal_that_redis_knows_is_not_reserved(row: Row, before: str) -> None:
    row.admit("b", "another")
    if before in ("failed", "delivered"):
        outcome = Outcome.DELIVERED if before == "delivered" else Outcome.NOT_SENT
        row.settle(outcome, "b", "another")
    if before == "lost":
        row.lose_worker()
    page = row.page("b")
    row.ask("a", then="b")
    row.deliver("a")
    assert not row.begin("b")
    assert row.page("b") == page


@pytest.mark.parametrize("header", ["ninja_attempts", "ninja_replays", "ninja_not_before"])
def test_a_goal_with_a_past_or_an_eta_asks_in_its_turn(row: Row, header: str) -> None:
    row.ask("a", then="b", **{header: 1})
    row.deliver("a")
    assert not row.begin("b")
    assert row.page("b") is None


def test_a_reserved_goal_whose_turn_does_not_come_is_not_in_doubt(row: Row) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    # The series ends, and the worker gives the goal back.
    row.series.catch_up()
    assert row.ended == 1
    admission = row.lose_worker().admit("b", "another", stop_on_doubt=True)
    assert (admission.answer, admission.record.doubtful) == (Answer.GO, 0)


def test_an_old_reservation_does_not_begin(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    monkeypatch.setattr(series, "_FRESH_SECONDS", 0.0)
    assert not row.begin("b")
    assert row.answer("b", "t-b") is Answer.GO


def test_another_goal_than_the_reserved_one_does_not_begin(row: Row) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    assert not row.begin("c")
    assert row.answer("c") is Answer.GO


def test_a_copy_of_the_reserved_goal_does_not_begin(row: Row) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    row.series.token = "another"
    assert not row.series.begin("b")
    assert row.answer("b", "another") is Answer.BUSY


def test_no_goal_begins_over_a_connection_that_was_lost(row: Row) -> None:
    row.ask("a", then="b")
    row.deliver("a")
    row.gate.line._connection.disconnect()
    assert not row.begin("b")
    assert row.answer("b", "t-b") is Answer.GO
    assert row.ended == 1


@pytest.mark.parametrize(
    ("limit", "asks_ahead"), [("50/s", False), ("9999/s", False), ("10000/s", True)]
)
def test_goals_are_asked_about_ahead_only_under_a_high_limit(
    client: redis.Redis, limit: str, asks_ahead: bool
) -> None:
    row = Row(client, rate_limit=limit)
    row.ask("a", then="b")
    assert (row.page("b") is not None) is asks_ahead


def test_the_goal_that_tries_a_silent_api_is_none_that_is_asked_about_ahead(row: Row) -> None:
    row.fail(5)
    row.later(5_001)
    row.ask("a", then="b")
    assert row.client.hget("ninja:gate", "probe") == "t-a"
    assert row.page("b") is None

"""Whatever the order of two workers' answers: a goal that may have been counted twice says so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.test_gate import MOMENT, RECORD, Rig, client

from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.record import DeliveryRecord

__all__ = ["client"]

COUNTS = (Outcome.DELIVERED, Outcome.UNKNOWN, None)
STATUS = {
    Outcome.DELIVERED: 200,
    Outcome.UNKNOWN: 500,
    Outcome.REJECTED: 400,
    Outcome.REFUSED: 503,
    Outcome.NOT_SENT: None,
}


@dataclass
class History:
    """Executions of one goal by workers that stop and come back, and what truly happened.

    Attributes:
        sent: what came of each request, by token; ``None`` while nobody knows.
    """

    rig: Rig
    sent: dict[str, Outcome | None] = field(default_factory=dict)
    records: dict[str, DeliveryRecord] = field(default_factory=dict)

    def take(self, token: str) -> bool:
        """Let an execution ask, after all others that hold the goal were stopped for long."""
        self.rig.lose_worker()
        asked = self.rig.admit(token=token)
        if asked.answer is Answer.GO:
            self.sent[token], self.records[token] = None, asked.record
        return bool(asked.answer is Answer.GO)

    def answer(self, token: str, outcome: Outcome) -> DeliveryRecord | None:
        """Let the API answer an execution; return its record if it decides over the goal."""
        self.sent[token] = outcome
        attempt = Attempt(outcome, MOMENT, 1, STATUS[outcome])
        record = self.records[token].after(attempt)
        settled = self.rig.gate.settle(record, attempt, token)
        return None if settled.is_delivered else settled.record

    def check(self) -> None:
        entry = self.rig.gate.ledger_entry("one")
        if entry and entry.delivered_at:
            twice = sum(one in COUNTS for one in self.sent.values()) > 1
            assert entry.possible_duplicate >= twice, self.sent
            assert entry.attempts >= len(self.sent), self.sent


@pytest.fixture
def history(client: redis.Redis) -> History:
    return History(Rig(client, rate_limit="none", max_attempts=1000))


#: What came of A's request, which was stopped, and of B's, which took the goal over.
OUTCOMES = [*Outcome]


@pytest.mark.parametrize("is_a_first", [True, False], ids=["A first", "B first"])
@pytest.mark.parametrize(("of_a", "of_b"), [*product([*OUTCOMES, None], [*OUTCOMES, None])])
def test_a_goal_that_two_workers_sent_is_marked_whichever_answers_first(
    history: History, of_a: Outcome | None, of_b: Outcome | None, is_a_first: bool
) -> None:
    assert history.take("a")
    assert history.take("b")
    order = [("a", of_a), ("b", of_b)]
    for token, outcome in order if is_a_first else order[::-1]:
        if outcome is not None:
            history.answer(token, outcome)
            history.check()
    entry = history.rig.gate.ledger_entry("one")
    assert entry is not None
    is_delivered = Outcome.DELIVERED in (of_a, of_b)
    assert (entry.delivered_at is not None) is is_delivered
    if is_delivered or of_b is not None:
        assert entry.attempts == 2
    if not is_delivered:
        history.take("c")
        history.answer("c", Outcome.DELIVERED)
        history.check()


def test_a_goal_that_one_worker_sent_once_is_not_marked(history: History) -> None:
    for outcome in (Outcome.REFUSED, Outcome.NOT_SENT, Outcome.DELIVERED):
        token = f"t-{outcome}"
        assert history.rig.answer(token=token) is Answer.GO
        history.rig.settle(outcome, token=token, record=history.rig.admit(token=token).record)
    entry = history.rig.gate.ledger_entry("one")
    assert entry is not None
    assert (entry.possible_duplicate, entry.attempts) == (False, 3)


@pytest.mark.parametrize("late", [Outcome.DELIVERED, Outcome.UNKNOWN])
def test_a_settlement_over_a_delivery_that_knew_nothing_of_it_is_a_second_sending(
    history: History, late: Outcome
) -> None:
    history.take("a")
    history.rig.client.delete("ninja:l:one")
    history.take("b")
    history.answer("b", Outcome.DELIVERED)
    entry = history.rig.gate.ledger_entry("one")
    assert entry is not None
    assert not entry.possible_duplicate
    history.answer("a", late)
    entry = history.rig.gate.ledger_entry("one")
    assert entry is not None
    assert entry.possible_duplicate


def test_a_worker_whose_goal_another_delivered_learns_of_it(history: History) -> None:
    history.take("a")
    history.take("b")
    history.answer("a", Outcome.DELIVERED)
    assert history.answer("b", Outcome.REJECTED) is None


def test_a_worker_that_gives_up_while_another_sends_knows_that_it_was_sent_twice(
    history: History,
) -> None:
    history.take("a")
    history.take("b")
    record = history.answer("a", Outcome.UNKNOWN)
    assert record is not None
    assert (record.possible_duplicate, record.made) == (True, 2)


def test_an_old_worker_does_not_take_back_what_a_replay_has_forgiven(history: History) -> None:
    history.take("a")
    history.take("b")
    record = history.answer("b", Outcome.REFUSED)
    assert record is not None
    replayed = replace(record, charged=0, replays=1)
    rig = history.rig
    assert rig.answer(token="c", record=replayed) is Answer.GO
    rig.settle(Outcome.REFUSED, token="c", record=rig.admit(token="c", record=replayed).record)
    history.answer("a", Outcome.UNKNOWN)
    found = rig.admit(token="d", record=replace(RECORD)).record
    assert (found.charged, found.replays) == (1, 1)


steps = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from([None, None, *OUTCOMES])), max_size=14
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=steps)
def test_no_order_of_workers_and_answers_leaves_a_second_sending_unmarked(
    client: redis.Redis, steps: list[tuple[str, Outcome | None]]
) -> None:
    client.flushall()
    history = History(Rig(client, rate_limit="none", max_attempts=1000))
    for token, outcome in steps:
        if outcome is None and token not in history.sent:
            history.take(token)
        elif outcome is not None and token in history.sent and history.sent[token] is None:
            history.answer(token, outcome)
        history.check()

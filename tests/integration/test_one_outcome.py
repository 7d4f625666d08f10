"""A goal has one outcome until a person replays it, whatever comes later for the same goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from celery import Celery
from integration.test_dead_letters import LETTER, app, queued
from integration.test_gate import CLOCK, MOMENT, RECORD, START, Rig, client

from ninja_tasks.dead_letters.replay import ReplayResult, replay
from ninja_tasks.dead_letters.store import DeadLetter, DeadLetterStore
from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.parking import ParkedGoal
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.delivery.state import Keys

__all__ = ["CLOCK", "app", "client"]

REJECTED = Attempt(Outcome.REJECTED, MOMENT, 12, status=400)


class Goal(Rig):
    """A gate and a store of letters, for a goal that was rejected, unless said otherwise."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, rate_limit="none")
        self.store = DeadLetterStore(client, Keys("ninja:"))

    def die(
        self,
        token: str = "first",  # noqa: S107 (a claim's)
        reason: str = "rejected",
        record: DeliveryRecord = RECORD,
    ) -> DeadLetter:
        admission = self.admit(token=token, record=record)
        assert admission.answer is Answer.GO
        done = admission.record.after(REJECTED)
        settled = self.gate.settle(done, REJECTED, token, dies=True)
        letter = letter_of(settled.record, reason)
        assert self.store.put(letter)
        return letter

    def letter(self) -> DeadLetter:
        stored = self.store.get("one")
        assert stored is not None
        return stored.letter


def letter_of(record: DeliveryRecord, reason: str, status: int | None = 400) -> DeadLetter:
    return replace(
        LETTER,
        reason=reason,
        status=status,
        attempts=record.made,
        doubtful=record.doubtful,
        possible_duplicate=record.possible_duplicate,
        replays=record.replays,
        history=record.history,
    )


@pytest.fixture
def goal(client: redis.Redis) -> Iterator[Goal]:
    return Goal(client)


# Later copies


@pytest.mark.parametrize(
    "reason", ["rejected", "unknown", "exhausted", "expired", "worker_lost", "failed"]
)
def test_a_later_copy_of_a_dead_goal_is_not_sent_and_changes_nothing(
    goal: Goal, reason: str
) -> None:
    letter = goal.die(reason=reason)
    for options in ({}, {"expired": True}, {"stop_on_doubt": True}):
        assert goal.answer(token="copy", **options) is Answer.DEAD
    assert not goal.store.put(letter_of(RECORD, "worker_lost", status=None))
    assert goal.letter() == letter


def test_a_dead_goal_stays_dead_when_the_ledger_has_forgotten_it(goal: Goal) -> None:
    goal.die()
    goal.client.delete("ninja:l:one")
    assert goal.answer(token="copy") is Answer.DEAD


def test_a_later_copy_is_counted_in_the_letter(goal: Goal) -> None:
    letter = goal.die()
    for _ in range(2):
        goal.store.note_copy("one")
    noted = goal.letter()
    assert (noted.copies, replace(noted, copies=0, last_copy_at=None)) == (2, letter)
    assert noted.last_copy_at is not None
    goal.store.note_copy("another")


@pytest.mark.parametrize("reason", ["invalid", "malformed"])
def test_a_message_that_was_no_goal_does_not_stand_in_the_way_of_one(
    goal: Goal, reason: str
) -> None:
    assert goal.store.put(replace(LETTER, reason=reason, attempts=0))
    goal.die()
    assert goal.letter().reason == "rejected"
    assert not goal.store.put(replace(LETTER, reason="invalid", attempts=0))


def test_a_letter_that_cannot_be_read_does_not_keep_its_goal(goal: Goal) -> None:
    goal.client.hset("ninja:dead", "one", "{")
    goal.die()


def test_a_copy_waits_until_the_letter_is_there_and_no_longer(goal: Goal) -> None:
    record = goal.admit(token="first").record.after(REJECTED)
    settled = goal.gate.settle(record, REJECTED, "first", dies=True)
    assert goal.answer(token="copy") is Answer.BUSY
    goal.store.put(letter_of(settled.record, "rejected"))
    assert goal.answer(token="copy") is Answer.DEAD
    replayed = settled.record.replayed(MOMENT)
    assert goal.answer(token="replayed", record=replayed) is Answer.GO


@pytest.mark.parametrize("is_lost", [True, False], ids=["killed", "stuck"])
def test_a_worker_that_ends_before_the_letter_leaves_no_doubt(goal: Goal, is_lost: bool) -> None:
    record = goal.admit(token="first").record.after(REJECTED)
    goal.gate.settle(record, REJECTED, "first", dies=True)
    if is_lost:
        goal.lose_worker()
    else:
        goal.later(31_000)
    again = goal.admit(token="again")
    assert (again.answer, again.record.made, again.record.doubtful) == (Answer.GO, 1, 0)


def test_settling_a_goal_that_dies_twice_counts_once(goal: Goal) -> None:
    record = goal.admit(token="first").record.after(REJECTED)
    for _ in range(2):
        settled = goal.gate.settle(record, REJECTED, "first", dies=True)
        assert (settled.record, settled.is_delivered) == (record, False)
    assert goal.gate.counters() == {"attempts": 1, "rejected": 1}


# Which letter is kept


def test_a_letter_is_replaced_by_one_of_more_attempts_or_of_a_later_replay(goal: Goal) -> None:
    for better in (
        replace(LETTER, attempts=3),
        replace(LETTER, attempts=1, replays=1),
        replace(LETTER, attempts=2, replays=1),
    ):
        assert goal.store.put(better)
        assert goal.store.put(better), "an equal one is there"
        assert not goal.store.put(replace(better, error="other"))
        assert goal.letter() == better


def test_a_delivered_goal_gets_no_letter(goal: Goal) -> None:
    goal.admit()
    goal.settle(Outcome.DELIVERED)
    assert not goal.store.put(LETTER)
    assert goal.store.get("one") is None


def test_a_late_delivery_removes_the_letter_and_is_marked(goal: Goal) -> None:
    goal.admit(token="slow")
    goal.lose_worker()
    goal.die(token="second")
    goal.settle(Outcome.DELIVERED, token="slow")
    assert goal.store.get("one") is None
    entry = goal.gate.ledger_entry("one")
    assert entry is not None
    assert (entry.possible_duplicate, entry.attempts) == (True, 2)


# Letters of messages that were no goals


MALFORMED = replace(LETTER, reason="malformed", attempts=0, payload=None, raw="e30=")


def test_bytes_are_not_lost_where_their_id_is_that_of_a_goal(goal: Goal) -> None:
    goal.die()
    assert not goal.store.put(MALFORMED)
    assert goal.letter().reason == "rejected"
    goal.admit("two")
    goal.settle(Outcome.DELIVERED, "two")
    assert not goal.store.put(replace(MALFORMED, delivery_id="two"))


def test_the_same_bytes_have_one_letter_and_others_under_their_id_none(goal: Goal) -> None:
    assert goal.store.put(MALFORMED)
    assert goal.store.put(replace(MALFORMED, died_at=MOMENT.isoformat()))
    assert not goal.store.put(replace(MALFORMED, raw="W10="))
    assert goal.letter() == MALFORMED


def test_a_goal_that_dies_under_the_id_of_such_a_letter_moves_it(goal: Goal) -> None:
    goal.store.put(MALFORMED)
    goal.die()
    reasons = {one.letter.reason: one.letter for one in goal.store.newest()}
    assert set(reasons) == {"rejected", "malformed"}
    assert reasons["malformed"].raw == MALFORMED.raw
    assert goal.letter().reason == "rejected"


def test_a_goal_that_is_delivered_under_the_id_of_such_a_letter_leaves_it(goal: Goal) -> None:
    goal.store.put(MALFORMED)
    goal.admit()
    goal.settle(Outcome.DELIVERED)
    assert goal.letter() == MALFORMED


# Lost workers


def test_a_goal_whose_workers_were_lost_remembers_each_attempt(goal: Goal) -> None:
    for number in range(3):
        goal.later(1000).admit(token=f"try-{number}")
        goal.lose_worker()
    lost = goal.admit(token="last")
    assert lost.answer is Answer.LOST
    record = lost.record
    assert (record.made, record.doubtful, record.possible_duplicate) == (3, 3, True)
    assert [line.error for line in record.history] == ["WorkerLost"] * 3
    assert [line.at[17:19] for line in record.history] == ["01", "02", "03"]
    assert goal.admit(token="again", record=record).record == record


def test_what_was_lost_before_an_answer_is_told_once(goal: Goal) -> None:
    goal.admit(token="lost")
    record = goal.lose_worker().admit(token="second").record
    goal.settle(Outcome.REFUSED, token="second", record=record, status=503)
    after = record.after(Attempt(Outcome.REFUSED, MOMENT, 12, status=503))
    assert goal.admit(token="third", record=after).record == after


# Replays


def test_an_exhausted_goal_that_is_enqueued_again_can_be_replayed(goal: Goal, app: Celery) -> None:
    goal.die(reason="exhausted")
    assert goal.answer(token="fresh") is Answer.DEAD
    for turn in (1, 2, 3):
        assert replay(app, goal.store, goal.store.newest()) == ReplayResult(1, 1, 0, 0)
        headers = queued(app)[-1]["headers"]
        assert headers["ninja_replays"] == turn
        record = replace(RECORD).with_headers(headers)
        goal.die(token=f"replay-{turn}", reason="exhausted", record=record)
        assert goal.letter().replays == turn
        assert goal.answer(token="fresh") is Answer.DEAD


def test_a_fresh_message_does_not_set_the_number_of_replays_back(goal: Goal) -> None:
    replayed = replace(RECORD, replays=2)
    goal.admit(token="replayed", record=replayed)
    goal.settle(Outcome.REFUSED, token="replayed", record=replayed, status=503)
    fresh = goal.admit(token="fresh").record
    assert fresh.replays == 2
    goal.settle(Outcome.REFUSED, token="fresh", status=503)
    assert goal.admit(token="another").record.replays == 2


def test_a_replay_is_sent_although_an_old_copy_is_parked(goal: Goal) -> None:
    record = goal.admit(token="slow").record
    letter = letter_of(record, "unknown")
    goal.settle(Outcome.REFUSED, token="slow", status=503)
    goal.store.put(letter)
    goal.parking.park("one", ParkedGoal({}, {}, 1), enqueued_at=MOMENT, seconds=60)
    assert goal.answer(token="replayed", record=replace(RECORD, replays=1)) is Answer.GO
    goal.client.delete("ninja:l:one", "ninja:dead")
    assert goal.answer(token="old") is Answer.PARKED


# Discarded letters


def test_a_goal_whose_letter_was_discarded_may_be_enqueued_as_a_new_one(goal: Goal) -> None:
    goal.admit(token="lost")
    goal.lose_worker()
    goal.die(reason="exhausted")
    assert goal.answer(token="copy") is Answer.DEAD
    assert goal.store.discard(*goal.store.newest()) == 1
    again = goal.admit(token="again", stop_on_doubt=True)
    assert again.answer is Answer.GO
    assert (again.record.charged, again.record.possible_duplicate) == (0, True)


def test_discarding_leaves_what_is_being_sent_and_what_is_delivered(goal: Goal) -> None:
    goal.die()
    (stored,) = goal.store.newest()
    goal.admit(token="replayed", record=replace(RECORD, replays=1))
    page = goal.client.get("ninja:l:one")
    assert goal.store.discard(stored) == 1
    assert goal.client.get("ninja:l:one") == page
    assert goal.store.discard(stored) == 0
    assert goal.store.discard() == 0
    assert goal.now < START

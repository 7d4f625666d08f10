"""The record of a delivery, in memory and in a message's headers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.errors import InvalidGoal
from ninja_tasks.message import (
    ATTEMPTS_HEADER,
    ENQUEUED_AT_HEADER,
    ON_UNKNOWN_HEADER,
    REPLAYS_HEADER,
)

ENQUEUED_AT = datetime(2024, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
RECEIVED_AT = ENQUEUED_AT + timedelta(hours=3)
FRESH = DeliveryRecord("order-17", ENQUEUED_AT)

STATUS = {
    Outcome.DELIVERED: 200,
    Outcome.NOT_SENT: None,
    Outcome.REFUSED: 503,
    Outcome.UNKNOWN: None,
    Outcome.REJECTED: 400,
}
outcomes = st.sampled_from(Outcome)


def after(record: DeliveryRecord, *attempts: Outcome) -> DeliveryRecord:
    """Add attempts, each of them one second and one millisecond longer than the one before."""
    for number, outcome in enumerate(attempts):
        record = record.after(
            Attempt(outcome, ENQUEUED_AT + timedelta(seconds=number), number, STATUS[outcome])
        )
    return record


def received(headers: Any) -> DeliveryRecord:
    """Return the record that a worker makes of a message with these headers."""
    return DeliveryRecord("order-17", RECEIVED_AT).with_headers(headers)


def over_the_wire(record: DeliveryRecord) -> DeliveryRecord:
    return received(json.loads(json.dumps(record.headers())))


# In the headers


@given(
    before=st.lists(outcomes, max_size=30),
    behind=st.lists(outcomes, max_size=3),
    replays=st.integers(0, 3),
    policy=st.sampled_from([None, "retry", "dead_letter"]),
)
@example(before=[], behind=[], replays=0, policy=None)
def test_a_record_survives_its_journey_through_headers(
    before: list[Outcome], behind: list[Outcome], replays: int, policy: str | None
) -> None:
    record = after(replace(FRESH, on_unknown=policy), *before)
    for _ in range(replays):
        record = record.replayed(RECEIVED_AT)
    record = after(record, *behind)
    assert over_the_wire(record) == record


def test_a_new_goal_has_no_header_but_its_time() -> None:
    assert FRESH.headers() == {ENQUEUED_AT_HEADER: "2024-01-01T12:00:00.250000+00:00"}


def test_headers_stay_small_however_many_attempts_were_made() -> None:
    record = after(FRESH, *[Outcome.REFUSED] * 1000)
    assert len(json.dumps(record.headers())) < 1024


def test_a_bare_message_without_headers_is_a_goal_enqueued_at_its_receipt() -> None:
    assert received({}) == DeliveryRecord("order-17", RECEIVED_AT)


def test_headers_of_others_are_left_alone() -> None:
    assert received({"sentry-trace": "x", "ninja": 1}) == received({})


def test_a_time_without_a_zone_is_read_as_utc() -> None:
    assert received({ENQUEUED_AT_HEADER: "2024-01-01T12:00:00.250000"}) == FRESH


@pytest.mark.parametrize(
    "headers",
    [
        {ENQUEUED_AT_HEADER: "yesterday"},
        {ENQUEUED_AT_HEADER: ""},
        {ENQUEUED_AT_HEADER: 1704110400},
        {ENQUEUED_AT_HEADER: ["2024-01-01"]},
        {ON_UNKNOWN_HEADER: "give_up"},
        {ON_UNKNOWN_HEADER: ""},
        {ON_UNKNOWN_HEADER: ["retry"]},
        {ON_UNKNOWN_HEADER: {"retry": True}},
        {REPLAYS_HEADER: "many"},
        {REPLAYS_HEADER: [1]},
        {ATTEMPTS_HEADER: "three"},
        {ATTEMPTS_HEADER: 3},
        {ATTEMPTS_HEADER: [3]},
        {ATTEMPTS_HEADER: {"made": "three"}},
        {ATTEMPTS_HEADER: {"made": None}},
        {ATTEMPTS_HEADER: {"made": [3]}},
        {ATTEMPTS_HEADER: {"charged": {}}},
        {ATTEMPTS_HEADER: {"doubtful": "nan"}},
        {ATTEMPTS_HEADER: {"made": True}},
        {REPLAYS_HEADER: True},
    ],
    ids=json.dumps,
)
def test_garbage_in_a_header_makes_the_goal_invalid(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidGoal):
        received(headers)


@pytest.mark.parametrize("number", ["Infinity", "1e999"])
def test_a_count_without_end_makes_the_goal_invalid(number: str) -> None:
    headers = json.loads(f'{{"{ATTEMPTS_HEADER}": {{"made": {number}}}}}')
    with pytest.raises(InvalidGoal):
        received(headers)


@pytest.mark.parametrize(
    "headers",
    [{ATTEMPTS_HEADER: {"made": 1, "charged": -1000}}, {REPLAYS_HEADER: -1}],
    ids=json.dumps,
)
def test_a_negative_count_makes_the_goal_invalid(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidGoal):
        received(headers)


@pytest.mark.parametrize(
    "history",
    [3, "once", [3], [[{}, 7, "refused", None]], [["yesterday", "refused"]], [[]], {"a": 1}],
    ids=json.dumps,
)
def test_a_line_of_history_that_cannot_be_read_is_left_out(history: Any) -> None:
    assert received({ATTEMPTS_HEADER: {"made": 2, "history": history}}).history == ()


def test_the_lines_beside_an_unreadable_one_are_kept() -> None:
    lines = [["2024-01-01T00:00:00", "refused", 503, 1], 3, ["2024-01-02T00:00:00", "unknown"]]
    record = received({ATTEMPTS_HEADER: {"made": 3, "history": lines}})
    assert record.made == 3
    assert [(line.at, line.outcome, line.status) for line in record.history] == [
        ("2024-01-01T00:00:00", "refused", 503),
        ("2024-01-02T00:00:00", "unknown", None),
    ]


def test_a_line_of_a_later_version_may_be_longer_and_have_words_that_are_new() -> None:
    line = ["2024-01-01T00:00:00+00:00", "postponed", 299, 12, "proxy", None, "http/3", {"a": 1}]
    record = received({ATTEMPTS_HEADER: {"made": 1, "history": [line], "hedged": 2}})
    (read,) = record.history
    assert (read.outcome, read.phase) == ("postponed", "proxy")
    assert over_the_wire(record) == record


def test_headers_that_a_later_version_adds_are_passed_on() -> None:
    record = received({"ninja_key": "order-17", "ninja_not_before": "2024-01-01"})
    assert record.headers() == {
        ENQUEUED_AT_HEADER: RECEIVED_AT.isoformat(),
        "ninja_key": "order-17",
    }
    assert over_the_wire(after(record, Outcome.REFUSED)).others == {"ninja_key": "order-17"}


def test_a_header_that_could_not_be_written_as_json_is_not_passed_on() -> None:
    assert received({"ninja_key": datetime.now(UTC), "ninja_x": [1]}).others == {}


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_time_that_does_not_exist_in_utc_makes_the_goal_invalid(moment: str) -> None:
    with pytest.raises(InvalidGoal):
        received({ENQUEUED_AT_HEADER: moment})


def test_a_refused_header_is_named_without_its_value() -> None:
    with pytest.raises(InvalidGoal) as caught:
        received({ON_UNKNOWN_HEADER: "185.237.80.128"})
    assert ON_UNKNOWN_HEADER in str(caught.value)
    assert "185.237" not in str(caught.value)


# Attempts


@given(attempts=st.lists(outcomes, max_size=30))
def test_every_attempt_is_counted_once(attempts: list[Outcome]) -> None:
    record = after(FRESH, *attempts)
    free = (Outcome.DELIVERED, Outcome.REJECTED)
    assert record.made == len(attempts)
    assert record.charged == sum(outcome not in free for outcome in attempts)
    assert record.doubtful == attempts.count(Outcome.UNKNOWN)


def test_an_attempt_changes_nothing_but_what_attempts_change() -> None:
    kept = ("delivery_id", "enqueued_at", "on_unknown", "replays")
    before = replace(FRESH, on_unknown="dead_letter", replays=2)
    changed = after(before, Outcome.UNKNOWN)
    assert [getattr(changed, name) for name in kept] == [getattr(before, name) for name in kept]


def test_a_429_is_counted_but_not_charged() -> None:
    record = FRESH.after(Attempt(Outcome.REFUSED, ENQUEUED_AT, 1, 429))
    assert (record.made, record.charged) == (1, 0)


def test_a_line_of_history_says_when_what_status_and_how_long() -> None:
    record = FRESH.after(Attempt(Outcome.REFUSED, ENQUEUED_AT, 12, 503, excerpt="personal"))
    assert [asdict(line) for line in record.history] == [
        {
            "at": "2024-01-01T12:00:00.250000+00:00",
            "outcome": "refused",
            "status": 503,
            "milliseconds": 12,
            "phase": "answer",
            "error": None,
        }
    ]


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        (0, []),
        (1, [0]),
        (2, [0, 1]),
        (10, [*range(10)]),
        (11, [*range(11)]),
        (12, [0, *range(2, 12)]),
        (30, [0, *range(20, 30)]),
    ],
)
def test_the_history_keeps_the_first_and_the_last_ten_attempts(made: int, kept: list[int]) -> None:
    record = after(FRESH, *[Outcome.REFUSED] * made)
    assert [line.milliseconds for line in record.history] == kept


def test_the_history_keeps_its_first_attempt_over_the_wire_and_a_replay() -> None:
    record = after(FRESH, Outcome.NOT_SENT, *[Outcome.REFUSED] * 15)
    again = after(over_the_wire(record).replayed(RECEIVED_AT), *[Outcome.UNKNOWN] * 15)
    assert again.history[0] == record.history[0]
    assert [line.outcome for line in again.history[1:]] == ["unknown"] * 10


# Possible duplicates


@given(attempts=st.lists(outcomes, max_size=12))
def test_a_goal_is_a_possible_duplicate_exactly_when_it_was_sent_again_after_an_unknown(
    attempts: list[Outcome],
) -> None:
    sent_again = any(
        outcome is not Outcome.NOT_SENT and Outcome.UNKNOWN in attempts[:number]
        for number, outcome in enumerate(attempts)
    )
    assert after(FRESH, *attempts).possible_duplicate is sent_again


@pytest.mark.parametrize(
    ("attempts", "possible_duplicate"),
    [
        ([Outcome.UNKNOWN], False),
        ([Outcome.UNKNOWN, Outcome.NOT_SENT], False),
        ([Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.DELIVERED], True),
        ([Outcome.UNKNOWN, Outcome.DELIVERED], True),
        ([Outcome.UNKNOWN, Outcome.UNKNOWN], True),
        ([Outcome.UNKNOWN, Outcome.REFUSED], True),
        ([Outcome.UNKNOWN, Outcome.REJECTED], True),
        ([Outcome.REFUSED, Outcome.NOT_SENT, Outcome.DELIVERED], False),
    ],
)
def test_a_failed_connection_after_an_unknown_is_no_sending(
    attempts: list[Outcome], possible_duplicate: bool
) -> None:
    assert after(FRESH, *attempts).possible_duplicate is possible_duplicate


def test_a_goal_that_is_replayed_after_an_unknown_becomes_a_possible_duplicate() -> None:
    replayed = after(FRESH, Outcome.UNKNOWN).replayed(RECEIVED_AT)
    assert not over_the_wire(replayed).possible_duplicate
    assert after(over_the_wire(replayed), Outcome.DELIVERED).possible_duplicate


# Replays and age


def test_a_replay_starts_age_and_charges_anew_and_keeps_the_past() -> None:
    record = after(replace(FRESH, on_unknown="retry"), *[Outcome.UNKNOWN] * 3)
    expected = asdict(record) | {"enqueued_at": RECEIVED_AT, "charged": 0, "replays": 1}
    assert asdict(record.replayed(RECEIVED_AT)) == expected


def test_every_replay_is_counted() -> None:
    assert FRESH.replayed(RECEIVED_AT).replayed(RECEIVED_AT).replays == 2


def test_a_goal_expires_by_its_age_in_seconds_from_the_enqueueing() -> None:
    later = ENQUEUED_AT + timedelta(minutes=2, milliseconds=500)
    assert not FRESH.is_expired(later, 120.5)
    assert FRESH.is_expired(later, 120.4)


def test_the_expiry_of_a_message_travels_in_the_headers_and_ends_with_a_replay() -> None:
    expires = ENQUEUED_AT + timedelta(seconds=10)
    record = FRESH.with_headers({"ninja_expires_at": expires.isoformat()})
    assert FRESH.with_headers(record.headers()).expires_at == expires
    assert not record.is_expired(expires, 604800)
    assert record.is_expired(expires + timedelta(seconds=1), 604800)
    assert record.replayed(expires).expires_at is None

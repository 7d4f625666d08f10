"""What a goal may be: bad ones are refused with a remedy, good ones arrive as they were meant."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from unit.bad_goals import (
    BAD_ARGUMENTS,
    BAD_BODIES,
    CUSTOMER_ID,
    GOAL_ID,
    GOOD,
    Bad,
    describe,
    trace_of,
)

from ninja_tasks import InvalidGoal, enqueue_goal, enqueue_goals
from ninja_tasks.goals import Goal, format_created_on, goal_to_wire
from ninja_tasks.producer import prepare
from ninja_tasks.validation import goal_from_message, goal_from_wire

WIRE_NAMES = {
    "goal_id": "GoalId",
    "customer_id": "CustomerId",
    "session_id": "SessionId",
    "ip": "Ip",
    "created_on": "CreatedOnUtc",
    "user_params": "CustomUserScopeParams",
    "page_params": "CustomPageScopeParams",
}
DOCUMENTED = [
    {
        "Ip": "185.237.80.128",
        "GoalId": GOAL_ID,
        "CustomerId": CUSTOMER_ID,
        "CreatedOnUtc": "2022-10-27 12:23:25.367999",
        "CustomUserScopeParams": {"Revenue": "12350", "NetProfit": "900"},
        "CustomPageScopeParams": {},
    },
    {
        "GoalId": GOAL_ID,
        "CustomerId": CUSTOMER_ID,
        "CustomPageScopeParams": {"Revenue": "12350", "NetProfit": "900"},
    },
]


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker="memory://", set_as_current=False)


def queued(app: Celery) -> int:
    with app.connection_for_read() as connection:
        return connection.default_channel._size("ninja_tasks")


def assert_refused(error: InvalidGoal, bad: Bad) -> None:
    text = str(error)
    assert f"{bad.path}" in text
    assert bad.remedy in text
    assert bad.path.split(".")[0] in {str(name) for name in error.messages}
    if trace := trace_of(bad.arguments):
        assert trace not in text


def test_the_tables_have_more_than_a_hundred_bad_goals() -> None:
    assert len(BAD_BODIES) + len(BAD_ARGUMENTS) > 100


@pytest.mark.parametrize("bad", BAD_BODIES + BAD_ARGUMENTS, ids=describe)
def test_a_bad_goal_is_refused_with_field_and_remedy_and_nothing_is_sent(
    app: Celery, bad: Bad
) -> None:
    with pytest.raises(ValueError, match="invalid goal at index 1") as caught:
        enqueue_goals([GOOD, {**GOOD, **bad.arguments}], app=app)
    assert isinstance(caught.value, InvalidGoal)
    assert (caught.value.index, caught.value.delivery_ids) == (1, [])
    assert_refused(caught.value, bad)
    if bad.arguments.keys() <= {*WIRE_NAMES, "revenue", "net_profit", "key", "on_unknown"}:
        with pytest.raises(InvalidGoal) as caught:
            enqueue_goal(**{**GOOD, **bad.arguments}, app=app)
        assert_refused(caught.value, bad)
    assert queued(app) == 0


@pytest.mark.parametrize("bad", BAD_BODIES, ids=describe)
def test_a_bad_body_is_refused_by_the_worker_with_the_same_words(bad: Bad) -> None:
    body = {WIRE_NAMES[name]: value for name, value in {**GOOD, **bad.arguments}.items()}
    with pytest.raises(InvalidGoal) as caught:
        goal_from_wire(body)
    assert_refused(caught.value, bad)


@pytest.mark.parametrize("body", [None, [], "{}", 5, [GOOD]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidGoal, match="must be an object"):
        goal_from_wire(body)


@pytest.mark.parametrize("missing", ["GoalId", "CustomerId"])
def test_a_missing_id_is_named(missing: str) -> None:
    body = {name: value for name, value in DOCUMENTED[1].items() if name != missing}
    with pytest.raises(InvalidGoal, match=f"{missing}: is missing: give"):
        goal_from_wire(body)


def test_an_unknown_field_is_refused_and_told_where_it_belongs() -> None:
    with pytest.raises(InvalidGoal, match=r"Price: is not a field of the API.*PageScope"):
        goal_from_wire({**DOCUMENTED[1], "Price": "1"})


def test_a_goal_that_is_no_dict_is_refused(app: Celery) -> None:
    with pytest.raises(InvalidGoal, match="must be a dict"):
        enqueue_goals(["goal"], app=app)  # type: ignore[list-item]


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidGoal) as caught:
        prepare({"goal_id": "x", "ip": "", "revenue": 1.5, "key": "", "page_params": {"a": 1}})
    assert caught.value.messages.keys() == {
        "GoalId",
        "CustomerId",
        "Ip",
        "CustomPageScopeParams",
        "revenue",
        "key",
    }


@pytest.mark.parametrize("body", DOCUMENTED)
def test_a_documented_body_is_sent_unchanged(body: dict[str, Any]) -> None:
    assert goal_to_wire(goal_from_wire(body)) == body


def test_the_vendors_session_id_is_accepted_though_it_has_no_version() -> None:
    session_id = "123212db-9b51-a416-996b-844d3fd09b51"
    assert prepare({**GOOD, "session_id": session_id}).body["SessionId"] == session_id


def test_guids_go_out_in_lower_case_and_may_be_uuid_objects() -> None:
    body = prepare({"goal_id": GOAL_ID.upper(), "customer_id": uuid.UUID(CUSTOMER_ID)}).body
    assert (body["GoalId"], body["CustomerId"]) == (GOAL_ID, CUSTOMER_ID)


@pytest.mark.parametrize("ip", ["185.237.80.128", "2001:db8::1", "::ffff:185.237.80.128"])
def test_an_address_is_sent_as_it_was_written(ip: str) -> None:
    assert prepare({**GOOD, "ip": ip}).body["Ip"] == ip


@pytest.mark.parametrize(
    ("given_time", "sent"),
    [
        ("2022-10-27 12:23:25", "2022-10-27 12:23:25.000000"),
        (datetime(2022, 10, 27, 12, 23, 25, tzinfo=UTC), "2022-10-27 12:23:25.000000"),
        (
            datetime(2022, 10, 27, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=3))),
            "2022-10-26 22:02:03.000004",
        ),
        (datetime(622, 7, 16, tzinfo=UTC), "0622-07-16 00:00:00.000000"),
        (
            datetime(2022, 10, 27, 12, 45, tzinfo=timezone(timedelta(hours=5, minutes=45))),
            "2022-10-27 07:00:00.000000",
        ),
        (
            datetime(2022, 10, 27, 15, tzinfo=ZoneInfo("Europe/Moscow")),
            "2022-10-27 12:00:00.000000",
        ),
    ],
)
def test_a_time_is_sent_in_utc_with_six_digits(given_time: Any, sent: str) -> None:
    assert prepare({**GOOD, "created_on": given_time}).body["CreatedOnUtc"] == sent


def test_a_time_may_be_ahead_by_as_much_as_clocks_differ() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=4)
    assert prepare({**GOOD, "created_on": soon}).body["CreatedOnUtc"] == format_created_on(soon)


def test_the_time_of_moscow_that_is_given_as_utc_is_refused() -> None:
    moscow = datetime.now(UTC) + timedelta(hours=3)
    for given_time in (moscow, format_created_on(moscow), f"{moscow:%Y-%m-%d %H:%M:%S}"):
        with pytest.raises(InvalidGoal, match="convert a local time to UTC"):
            prepare({**GOOD, "created_on": given_time})


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(minutes=4)])
@pytest.mark.parametrize("skew", [timedelta(minutes=20), timedelta(days=400)])
def test_a_worker_takes_what_a_producer_took_whose_clock_is_ahead(
    skew: timedelta, ahead: timedelta
) -> None:
    producers_now = datetime.now(UTC) + skew
    body = {**DOCUMENTED[1], "CreatedOnUtc": format_created_on(producers_now + ahead)}
    assert goal_from_message([body], {}, producers_now).created_on == producers_now + ahead
    with pytest.raises(InvalidGoal, match="5 minutes ahead"):
        goal_from_message([body], {}, datetime.now(UTC))


def test_a_worker_whose_clock_is_ahead_takes_what_it_may() -> None:
    now = datetime.now(UTC)
    body = {**DOCUMENTED[1], "CreatedOnUtc": format_created_on(now)}
    assert goal_from_message([body], {}, now - timedelta(hours=3)).created_on == now


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (12350, "12350"),
        (0, "0"),
        (-5, "-5"),
        (Decimal("12350.50"), "12350.50"),
        (Decimal("1E+3"), "1000"),
        ("12350.50", "12350.50"),
    ],
)
def test_money_is_written_plainly_into_the_page_parameters(amount: Any, text: str) -> None:
    body = prepare({**GOOD, "revenue": amount, "page_params": {"promo": "autumn"}}).body
    assert body["CustomPageScopeParams"] == {"promo": "autumn", "Revenue": text}
    assert prepare({**GOOD, "net_profit": amount}).body["CustomPageScopeParams"] == {
        "NetProfit": text
    }


def test_the_longest_parameter_is_accepted() -> None:
    assert prepare({**GOOD, "page_params": {"note": "ы" * 512}})


def test_none_means_absent_and_an_empty_object_is_kept() -> None:
    body = prepare({**GOOD, "ip": None, "session_id": None, "user_params": {}}).body
    assert body.keys() == {"GoalId", "CustomerId", "CreatedOnUtc", "CustomUserScopeParams"}


def test_the_fields_of_the_api_may_be_given_by_their_own_names() -> None:
    assert prepare(DOCUMENTED[0]).body == DOCUMENTED[0]


def test_the_text_of_a_goal_shows_no_personal_data() -> None:
    text = repr(goal_from_wire(DOCUMENTED[0]))
    assert GOAL_ID in text
    for private in (CUSTOMER_ID, "185.237", "12350", "2022"):
        assert private not in text


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
parameters = st.none() | st.dictionaries(texts, texts, max_size=3)


@given(
    goal=st.builds(
        Goal,
        goal_id=st.uuids().map(str),
        customer_id=st.uuids().map(str),
        session_id=st.none() | st.uuids().map(str),
        ip=st.none() | st.ip_addresses().map(str),
        created_on=st.datetimes(max_value=datetime(2024, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        user_params=parameters,
        page_params=parameters,
    )
)
def test_a_goal_survives_the_wire(goal: Goal) -> None:
    assert goal_from_wire(goal_to_wire(goal)) == goal


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_is_written_in_twenty_six_characters(moment: datetime) -> None:
    assert len(format_created_on(moment)) == 26

"""The short way to a goal: what it takes, the schema takes too, and makes the same of it."""

from __future__ import annotations

import ipaddress
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.bad_goals import CUSTOMER_ID, GOAL_ID

from ninja_tasks.errors import InvalidGoal
from ninja_tasks.goals import WIRE_NAMES, format_created_on, goal_to_wire, plain_goal
from ninja_tasks.schemas import GoalSchema, load_goal
from ninja_tasks.validation import goal_from_wire

FULL = {
    "GoalId": GOAL_ID,
    "CustomerId": CUSTOMER_ID.upper(),
    "SessionId": "123212DB-9b51-a416-996b-844d3fd09b51",
    "Ip": "185.237.80.128",
    "CreatedOnUtc": "2022-10-27 12:23:25.367999",
    "CustomUserScopeParams": {},
    "CustomPageScopeParams": {"Revenue": "12350", "a" * 600: "b" * 512, "товар": "ёлка"},
}

texts = st.text(max_size=6) | st.sampled_from(["", "é", "\ud800", "x" * 512, "x" * 513, "Revenue"])
things = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(texts | st.integers(), texts | st.integers() | st.none(), max_size=3)
)
guids = st.uuids().map(str) | st.from_regex(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-f]{11,13}")
addresses = (
    st.ip_addresses().map(str)
    | st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,3}){2,4}\.?\Z")
    | st.text("0123456789.:af/%\n٣ ", max_size=16)
)
times = (
    st.datetimes().map(str)
    | st.datetimes().map(datetime.isoformat)
    | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-9]{2}(\.[0-9]{6})?\Z")
)
parameters = st.dictionaries(texts, texts, max_size=3)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "GoalId": guids | things,
        "CustomerId": guids | things,
        "SessionId": guids | things,
        "Ip": addresses | things,
        "CreatedOnUtc": times | things,
        "CustomUserScopeParams": parameters | things,
        "CustomPageScopeParams": parameters | things,
        "Email": things,
    },
)
likely = st.fixed_dictionaries(
    {"GoalId": st.uuids().map(str), "CustomerId": st.uuids().map(str)},
    optional={
        "SessionId": st.none() | guids,
        "Ip": st.none() | addresses,
        "CreatedOnUtc": st.none() | times,
        "CustomUserScopeParams": st.none() | parameters,
        "CustomPageScopeParams": st.none() | parameters,
    },
)


@settings(max_examples=1500, deadline=None)
@given(bodies | likely)
@example(FULL)
@example({**FULL, "Ip": None, "SessionId": None, "CustomUserScopeParams": None})
@example({**FULL, "CreatedOnUtc": "2022-02-30 12:23:25"})
@example({**FULL, "CreatedOnUtc": "0000-01-01 00:00:00"})
@example({**FULL, "Ip": "01.2.3.4"})
def test_what_the_short_way_takes_the_schema_takes_and_makes_the_same_of_it(body: Any) -> None:
    goal = plain_goal(body)
    if goal is not None:
        assert goal == GoalSchema().load(body)


@settings(max_examples=500, deadline=None)
@given(
    now=st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),  # noqa: DTZ001 (a zone follows)
    ahead=st.timedeltas(timedelta(minutes=4, seconds=59), timedelta(minutes=5, seconds=1))
    | st.timedeltas(timedelta(days=-300), timedelta(days=300)),
)
@example(now=datetime(2026, 1, 1), ahead=timedelta(minutes=5))  # noqa: DTZ001
@example(now=datetime(2026, 1, 1), ahead=timedelta(minutes=5, microseconds=1))  # noqa: DTZ001
def test_the_short_way_refuses_the_times_that_the_schema_refuses(
    now: datetime, ahead: timedelta
) -> None:
    now = now.replace(tzinfo=UTC)
    body = {**FULL, "CreatedOnUtc": format_created_on(now + ahead)}
    is_ahead = ahead > timedelta(minutes=5)
    assert (plain_goal(body, now) is None) is is_ahead
    with (
        pytest.raises(InvalidGoal, match=r"^invalid goal: CreatedOnUtc: [^;]*$")
        if (is_ahead)
        else nullcontext()
    ):
        load_goal(body, now)


@settings(max_examples=500, deadline=None)
@given(addresses)
def test_the_short_way_knows_every_ipv4_address_and_no_other_text(text: str) -> None:
    try:
        is_address = isinstance(ipaddress.ip_address(text), ipaddress.IPv4Address)
    except ValueError:
        is_address = False
    assert (plain_goal({**FULL, "Ip": text}) is not None) is is_address


@pytest.mark.parametrize("body", [FULL, {"GoalId": GOAL_ID, "CustomerId": CUSTOMER_ID}])
def test_a_usual_goal_goes_the_short_way(body: dict[str, Any]) -> None:
    assert plain_goal(body) is not None
    assert plain_goal(goal_to_wire(goal_from_wire(body))) is not None


def test_the_schema_has_the_fields_of_the_api() -> None:
    fields = GoalSchema().fields
    assert {name: field.data_key for name, field in fields.items()} == WIRE_NAMES

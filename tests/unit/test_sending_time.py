"""When a message was sent, by what it says of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninja_tasks.delivery.sending_time import enqueued_at, sent_at

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SENT = datetime(2026, 1, 1, 9, tzinfo=UTC)
SECONDS = int(SENT.timestamp())


@pytest.mark.parametrize(
    ("headers", "properties"),
    [
        ({}, {"timestamp": SECONDS}),
        ({}, {"timestamp": float(SECONDS)}),
        ({}, {"timestamp": SECONDS * 1000}),
        ({}, {"timestamp": datetime(2026, 1, 1, 9)}),  # noqa: DTZ001 (amqp's own form)
        ({"timestamp": SECONDS}, {}),
        ({"timestamp": f"{SECONDS}.000"}, {}),
        ({"timestamp": "2026-01-01T12:00:00+03:00"}, {}),
        ({"timestamp_in_ms": SECONDS * 1000}, {}),
        ({"sentry-task-enqueued-time": f"{SECONDS}.000000"}, {}),
        ({"headers": {"sentry-task-enqueued-time": f"{SECONDS}.000000"}}, {"priority": 0}),
        ({"timestamp_in_ms": SECONDS * 1000}, {"timestamp": 5}),
        ({"timestamp": SECONDS}, {"timestamp": "what is this"}),
    ],
)
def test_a_message_that_says_when_it_was_sent_is_believed(
    headers: dict[str, Any], properties: dict[str, Any]
) -> None:
    assert sent_at(headers, properties, NOW) == SENT


@pytest.mark.parametrize(
    "stamp",
    [
        0,
        -1,
        1e300,
        float("nan"),
        "",
        "soon",
        "1.2.3",
        True,
        [SECONDS],
        {"a": 1},
        (NOW + timedelta(minutes=6)).timestamp(),
    ],
    ids=repr,
)
def test_a_time_that_cannot_be_one_is_not_believed(stamp: Any) -> None:
    headers = {"timestamp": stamp, "timestamp_in_ms": stamp, "sentry-task-enqueued-time": stamp}
    assert sent_at(headers, {"timestamp": stamp}, NOW) is None


@given(
    st.dictionaries(
        st.sampled_from(["timestamp", "headers"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
            lambda inner: st.dictionaries(st.sampled_from(["timestamp", "x"]), inner, max_size=2),
        ),
    ),
    st.none() | st.integers(),
)
def test_nothing_in_a_message_breaks_the_reading_of_its_time(headers: Any, properties: Any) -> None:
    moment = sent_at(headers, properties, NOW)
    assert moment is None or moment <= NOW + timedelta(minutes=5)


def test_what_the_producer_wrote_is_found_where_an_instrumentation_nests_it() -> None:
    assert enqueued_at({"ninja_enqueued_at": "x"}) == "x"
    assert enqueued_at({"headers": {"ninja_enqueued_at": "x"}}) == "x"
    assert enqueued_at({"headers": [1]}) is enqueued_at(None) is None

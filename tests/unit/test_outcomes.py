"""What one attempt meant and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from ninja_tasks.delivery.outcomes import (
    Attempt,
    Outcome,
    Verdict,
    backoff_seconds,
    decide,
    outcome_of_failure,
    outcome_of_status,
    retry_after_seconds,
    transient_error,
)
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.errors import NotSent, Refused, TransientError, UnknownOutcome

NOW = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)
EVERY_STATUS = range(100, 600)
REFUSALS = {408, 425, 429, 503}
STATUSES = {
    Outcome.DELIVERED: {*range(200, 300)},
    Outcome.REFUSED: REFUSALS,
    Outcome.REJECTED: {*range(300, 500)} - REFUSALS,
    Outcome.UNKNOWN: {*range(100, 200), *range(500, 600)} - REFUSALS,
}
MAX_ATTEMPTS = 5
NEVER_ENDING = {429}


def attempt(outcome: Outcome, status: int | None = None, **fields: Any) -> Attempt:
    return Attempt(outcome=outcome, started_at=NOW, milliseconds=3, status=status, **fields)


def wait_asked_for(text: str, status: int = 503) -> float | None:
    return retry_after_seconds(status, {"Retry-After": text}, NOW)


# Outcomes


def test_every_status_means_exactly_what_the_table_says() -> None:
    table = {status: outcome for outcome, statuses in STATUSES.items() for status in statuses}
    assert {status: outcome_of_status(status) for status in EVERY_STATUS} == table


def test_a_failure_is_unknown_only_if_the_request_was_written() -> None:
    assert outcome_of_failure(request_written=False) is Outcome.NOT_SENT
    assert outcome_of_failure(request_written=True) is Outcome.UNKNOWN


# Retry-After


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        ("7", 7),
        (" 7 ", 7),
        ("007", 7),
        ("3600", 3600),
        ("1.5", 1.5),
        ("2.", 2),
        ("30, 30", 30),
        ("5 ,6.5", 6.5),
    ],
)
def test_a_retry_after_in_seconds_is_obeyed(text: str, seconds: float) -> None:
    assert wait_asked_for(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 2024 12:01:30 GMT",
        "Monday, 01-Jan-24 12:01:30 GMT",
        "Mon Jan  1 12:01:30 2024",
        "Mon, 01 Jan 2024 14:01:30 +0200",
        "Mon, 01 Jan 2024 12:01:30 -0000",
        "Mon, 01 Jan 2024 12:01:30",
    ],
    ids=["http", "rfc850", "asctime", "offset", "unknown-zone", "naive"],
)
def test_a_retry_after_that_is_a_date_is_counted_from_now(text: str) -> None:
    assert wait_asked_for(text) == 90


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 1),
        ("3601", 3600),
        ("86400", 3600),
        ("9" * 400, 3600),
        ("9" * 5000, 3600),
        ("Mon, 01 Jan 2024 12:00:00 GMT", 1),
        ("Sun, 31 Dec 2023 12:00:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Mon, 01 Jan 2024 13:00:01 GMT", 3600),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wait_is_kept_between_one_second_and_one_hour(text: str, seconds: float) -> None:
    assert wait_asked_for(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "-1",
        "-0",
        "+5",
        ".5",
        "1.5.5",
        "1e3",
        "5,",
        "5, x",
        "5s",
        "soon",
        "²",
        "٣",
        "\x00",
        "GMT",
    ],
)
def test_a_retry_after_that_is_garbage_asks_for_nothing(text: str) -> None:
    assert wait_asked_for(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 32 Jan 2024 12:00:00 GMT",
        "Mon, 01 Jan 2024 25:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 12:00:00 GMT",
        "Mon, 01 Jan 2024 12:00:99999999999999999999 GMT",
        "Mon, 01 Jan 2024 12:00:00 +99999999999999999999",
    ],
    ids=["day", "hour", "huge-year", "huge-second", "huge-zone"],
)
def test_a_date_that_does_not_exist_asks_for_nothing(text: str) -> None:
    assert wait_asked_for(text) is None


def test_only_a_refusal_is_asked_for_its_retry_after() -> None:
    heard = {status for status in EVERY_STATUS if wait_asked_for("7", status) is not None}
    assert heard == REFUSALS


def test_an_answer_without_retry_after_asks_for_nothing() -> None:
    assert retry_after_seconds(503, {}, NOW) is None


def test_the_name_of_the_header_is_found_in_any_case() -> None:
    assert retry_after_seconds(429, CaseInsensitiveDict({"retry-after": "7"}), NOW) == 7


numbers = st.integers(-(10**22), 10**22).map(str) | st.integers(0, 60).map("{:02}".format)
dates = st.builds(
    "Mon, {} Jan {} {}:{}:{} {}".format,
    *[numbers] * 5,
    st.sampled_from(["GMT", "-0000", ""]) | numbers.map("+{}".format),
)


@given(text=st.text() | numbers | dates)
@example("Mon, 01 Jan 2024 12:00:00 +2400")
def test_no_retry_after_breaks_an_attempt(text: str) -> None:
    seconds = wait_asked_for(text)
    assert seconds is None or 1 <= seconds <= 3600


# Charging


@pytest.mark.parametrize(
    ("outcome", "status", "charged"),
    [
        (Outcome.DELIVERED, 200, False),
        (Outcome.REJECTED, 400, False),
        (Outcome.NOT_SENT, None, True),
        (Outcome.UNKNOWN, None, True),
        (Outcome.UNKNOWN, 500, True),
        (Outcome.REFUSED, 408, True),
        (Outcome.REFUSED, 425, True),
        (Outcome.REFUSED, 503, True),
        (Outcome.REFUSED, 429, False),
    ],
)
def test_failures_are_charged_but_a_429_is_not(
    outcome: Outcome, status: int | None, charged: bool
) -> None:
    assert attempt(outcome, status).charged is charged


# Verdicts


def expected_verdict(outcome: Outcome, status: int | None, charged: int, policy: str) -> Verdict:
    if outcome is Outcome.UNKNOWN and policy == "dead_letter":
        return Verdict.UNKNOWN
    ended = {Outcome.DELIVERED: Verdict.DELIVERED, Outcome.REJECTED: Verdict.REJECTED}
    worn_out = charged >= MAX_ATTEMPTS and status not in NEVER_ENDING
    return ended.get(outcome, Verdict.EXHAUSTED if worn_out else Verdict.RETRY)


ENDINGS = [
    (Outcome.DELIVERED, 200),
    (Outcome.DELIVERED, 204),
    (Outcome.REJECTED, 400),
    (Outcome.REJECTED, 302),
    (Outcome.NOT_SENT, None),
    (Outcome.REFUSED, 408),
    (Outcome.REFUSED, 425),
    (Outcome.REFUSED, 503),
    (Outcome.REFUSED, 429),
    (Outcome.UNKNOWN, None),
    (Outcome.UNKNOWN, 500),
]
CHARGES = [0, 1, MAX_ATTEMPTS - 1, MAX_ATTEMPTS, MAX_ATTEMPTS + 1]


@pytest.mark.parametrize(
    ("ending", "charged", "policy"), [*product(ENDINGS, CHARGES, ["retry", "dead_letter"])]
)
def test_the_verdict_follows_from_outcome_charge_and_policy(
    ending: tuple[Outcome, int | None], charged: int, policy: str
) -> None:
    verdict = decide(
        attempt(*ending), charged=charged, max_attempts=MAX_ATTEMPTS, on_unknown=policy
    )
    assert verdict is expected_verdict(*ending, charged, policy)


def test_a_goal_with_one_attempt_allowed_is_given_up_after_its_first_failure() -> None:
    failed = attempt(Outcome.NOT_SENT, error="ConnectionRefusedError")
    verdict = decide(failed, charged=1, max_attempts=1, on_unknown="retry")
    assert verdict is Verdict.EXHAUSTED


answers = st.sampled_from(EVERY_STATUS).map(
    lambda status: attempt(outcome_of_status(status), status)
)
failures = st.booleans().map(
    lambda written: attempt(outcome_of_failure(request_written=written), error="ReadTimeout")
)
retriable = st.sampled_from([408, 425, 429, 500, 503]).map(
    lambda status: attempt(outcome_of_status(status), status)
)
policies = st.sampled_from(["retry", "dead_letter"])


def deliver(
    attempts: list[Attempt], max_attempts: int, policy: str
) -> tuple[DeliveryRecord, Verdict]:
    """Make attempts until a verdict ends the delivery, or there are no more."""
    record, verdict = DeliveryRecord("one", NOW), Verdict.RETRY
    for one in attempts:
        record = record.after(one)
        verdict = decide(one, charged=record.charged, max_attempts=max_attempts, on_unknown=policy)
        if verdict is not Verdict.RETRY:
            break
    return record, verdict


@given(
    attempts=st.lists(answers | failures | retriable, max_size=60),
    max_attempts=st.integers(1, 20),
    policy=policies,
)
def test_a_goal_is_never_charged_more_than_it_may_be(
    attempts: list[Attempt], max_attempts: int, policy: str
) -> None:
    record, verdict = deliver(attempts, max_attempts, policy)
    assert record.charged <= max_attempts
    assert (verdict is not Verdict.RETRY) or record.charged < max_attempts


@given(
    charged=st.lists((failures | retriable).filter(lambda one: one.charged), min_size=20),
    limits=st.integers(0, 20),
    max_attempts=st.integers(1, 20),
    policy=policies,
)
def test_a_goal_that_keeps_failing_ends_whatever_429s_come_between(
    charged: list[Attempt], limits: int, max_attempts: int, policy: str
) -> None:
    interleaved = [
        one for failed in charged for one in (*[attempt(Outcome.REFUSED, 429)] * limits, failed)
    ]
    record, verdict = deliver(interleaved, max_attempts, policy)
    assert verdict in (Verdict.EXHAUSTED, Verdict.UNKNOWN)
    assert record.made <= (limits + 1) * max_attempts


def test_a_goal_that_meets_nothing_but_429_is_retried_and_never_charged() -> None:
    record, verdict = deliver([attempt(Outcome.REFUSED, 429)] * 1000, 1, "retry")
    assert (verdict, record.made, record.charged) == (Verdict.RETRY, 1000, 0)


# The exception that makes Celery retry


@pytest.mark.parametrize(
    ("failed", "kind", "text"),
    [
        (attempt(Outcome.NOT_SENT, error="ConnectTimeout"), NotSent, "ConnectTimeout"),
        (attempt(Outcome.REFUSED, 503), Refused, "status 503"),
        (attempt(Outcome.UNKNOWN, error="ReadTimeout"), UnknownOutcome, "ReadTimeout"),
        (attempt(Outcome.UNKNOWN, 502), UnknownOutcome, "status 502"),
    ],
)
def test_a_retry_is_raised_as_its_kind_and_says_what_went_wrong(
    failed: Attempt, kind: type[TransientError], text: str
) -> None:
    error = transient_error(failed)
    assert (type(error), str(error)) == (kind, text)


@pytest.mark.parametrize("outcome", [Outcome.NOT_SENT, Outcome.REFUSED, Outcome.UNKNOWN])
@pytest.mark.parametrize("seconds", [None, 1.0, 3600.0])
def test_every_kind_of_retry_carries_the_wait_that_the_api_asked_for(
    outcome: Outcome, seconds: float | None
) -> None:
    error = transient_error(attempt(outcome, 503, retry_after_seconds=seconds))
    assert error.retry_after_seconds == seconds


def test_an_exception_for_a_retry_shows_nothing_of_the_answer() -> None:
    error = transient_error(attempt(Outcome.REFUSED, 503, excerpt="client 185.237.80.128"))
    assert "185.237" not in f"{error} {error!r}"


@pytest.mark.parametrize(
    ("retries", "delay"), [(0, 2), (1, 4), (5, 64), (8, 512), (9, 600), (10**6, 600)]
)
def test_a_retry_waits_between_half_and_all_of_a_delay_that_doubles(
    retries: int, delay: float
) -> None:
    waits = [backoff_seconds(retries, 2, 600) for _ in range(200)]
    assert min(waits) >= delay / 2
    assert max(waits) <= delay
    assert max(waits) - min(waits) > delay / 4

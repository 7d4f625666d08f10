"""The arithmetic of limits, the breaker and retries, whatever happens in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from celery.utils.time import get_exponential_backoff_interval
from hypothesis import given
from hypothesis import strategies as st
from models import BreakerModel, LimitModel

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery.outcomes import Attempt, Outcome, Verdict, decide
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.tasks import reach_goal

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = DeliveryRecord("one", MOMENT)

failures = st.sampled_from(
    [
        Attempt(Outcome.NOT_SENT, MOMENT, 1, error="ConnectionRefusedError"),
        Attempt(Outcome.REFUSED, MOMENT, 1, 503),
        Attempt(Outcome.REFUSED, MOMENT, 1, 429),
        Attempt(Outcome.UNKNOWN, MOMENT, 1, 500),
    ]
)


rates = st.builds(RateLimit, st.integers(1, 2000), st.sampled_from([1, 60]))
questions = st.lists(
    st.tuples(st.floats(0, 3000, allow_nan=False), st.sampled_from("abc"), st.integers(0, 300)),
    min_size=1,
    max_size=80,
)


def slots_of(
    limit: LimitModel, rate: RateLimit, asked: list[tuple[float, str, int]]
) -> list[float]:
    """Let workers ask after gaps, and return the times of all slots in milliseconds."""
    now, slots = 0.0, []
    for gap, worker, wanted in asked:
        now += gap
        grant = limit.ask(worker, 0.0, rate, now, wanted, holds=True)
        slots += [now + 1000 * seconds for seconds in grant.times()]
    return slots


@given(rate=rates, asked=questions)
def test_slots_are_an_interval_apart_and_never_beyond_the_horizon(
    rate: RateLimit, asked: list[tuple[float, str, int]]
) -> None:
    limit = LimitModel()
    slots = slots_of(limit, rate, asked)
    for earlier, later in pairwise(slots):
        assert later - earlier >= rate.interval_milliseconds - 1e-6
    assert all(slot <= sum(gap for gap, *_ in asked) + limit.horizon + 1e-6 for slot in slots)


@given(rate=rates, count=st.integers(2, 300))
def test_no_slot_is_left_out_while_somebody_asks_in_time(rate: RateLimit, count: int) -> None:
    limit = LimitModel()
    slots: list[float] = []
    now = 0.0
    while len(slots) < count:
        # One that waits holds a slot beyond the horizon, and asks again when it is used.
        grant = limit.ask("a", 0.0, rate, now, count, holds=False)
        slots += [now + 1000 * seconds for seconds in grant.times()]
        now = max(now, slots[-1] - 100)
    assert slots[-1] - slots[0] <= (len(slots) - 1) * rate.interval_milliseconds + 1e-3


@given(rate=rates, workers=st.integers(1, 20), back=st.floats(0, 1e9), wanted=st.integers(1, 300))
def test_a_clock_that_was_set_back_holds_nobody_up_for_long(
    rate: RateLimit, workers: int, back: float, wanted: int
) -> None:
    limit, now = LimitModel(), 1e9
    for number in range(workers):
        limit.ask(str(number), 0.0, rate, now, wanted, holds=False)
    later = now - back + 1
    grant = limit.ask("0", 0.0, rate, later, 1, holds=False)
    longest = limit.horizon + (workers + 1) * rate.interval_milliseconds
    assert grant.times()[0] * 1000 <= longest + 1e-6


events = st.lists(
    st.tuples(
        st.sampled_from(["ask", "succeed", "fail", "wait"]),
        st.sampled_from("abcd"),
        st.floats(0, 50_000),
    ),
    max_size=100,
)


@given(events=events)
def test_the_breaker_lets_one_goal_try_at_a_time_and_has_no_state_without_an_exit(
    events: list[tuple[str, str, float]],
) -> None:
    breaker, now = BreakerModel(5, 5000, 60_000, 40_000), 0.0
    trying: dict[str, float] = {}
    for event, token, gap in events:
        now += gap
        if event == "ask":
            was_closed = breaker.state(now) == "closed"
            if breaker.admits(token, now) and not was_closed:
                trying = {one: until for one, until in trying.items() if until > now}
                assert set(trying) <= {token}
                trying[token] = now + breaker.lease
        else:
            trying.pop(token, None)
            if event == "succeed":
                breaker.succeeded()
                trying.clear()
            elif event == "fail":
                breaker.failed(token, now)
            else:
                breaker.was_told_to_wait(token)
        assert 0 <= breaker.pause <= breaker.longest_pause
        exit_at = max(now, breaker.open_until, breaker.probe_until if breaker.probe else 0)
        copy = BreakerModel(**vars(breaker))
        assert copy.admits("another", exit_at)
        copy.succeeded()
        assert copy.state(exit_at) == "closed"


@given(retries=st.integers(0, 60), asked=st.one_of(st.none(), st.floats(1, 3600)))
def test_a_retry_waits_at_most_ten_minutes_unless_the_api_asked_for_more(
    retries: int, asked: float | None
) -> None:
    options = reach_goal.retry_backoff, reach_goal.retry_backoff_max, reach_goal.retry_jitter
    assert options == (2, 600, True)
    backoff = get_exponential_backoff_interval(2, retries, 600, full_jitter=True)
    assert 0 <= backoff <= min(600, 2 * 2**retries)
    assert max(backoff, asked or 0) <= max(600, asked or 0)


@given(attempts=st.lists(failures, max_size=60), max_attempts=st.integers(1, 20))
def test_a_goal_is_given_up_after_its_charged_attempts_and_every_attempt_is_counted(
    attempts: list[Attempt], max_attempts: int
) -> None:
    record, verdict = FRESH, Verdict.RETRY
    for attempt in attempts:
        record = record.after(attempt)
        verdict = decide(
            attempt, charged=record.charged, max_attempts=max_attempts, on_unknown="retry"
        )
        if verdict is not Verdict.RETRY:
            break
    assert record.charged <= max_attempts
    assert (verdict is Verdict.EXHAUSTED) == (record.charged == max_attempts)
    assert record.doubtful <= record.charged <= record.made
    assert len(record.history) == min(record.made, 11)
    assert not record.possible_duplicate or record.doubtful
    assert FRESH.with_headers(record.headers()) == record

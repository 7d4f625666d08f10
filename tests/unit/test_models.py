"""The arithmetic of limits, the breaker and retries, whatever happens in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime

from celery.utils.time import get_exponential_backoff_interval
from hypothesis import given
from hypothesis import strategies as st
from models import BreakerModel, LimitModel

from ninja_tasks.delivery.outcomes import Attempt, Outcome, Verdict, decide
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.tasks import reach_goal

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = DeliveryRecord("one", MOMENT)

gaps = st.lists(st.floats(0, 3000, allow_nan=False), min_size=1, max_size=150)
failures = st.sampled_from(
    [
        Attempt(Outcome.NOT_SENT, MOMENT, 1, error="ConnectionRefusedError"),
        Attempt(Outcome.REFUSED, MOMENT, 1, 503),
        Attempt(Outcome.REFUSED, MOMENT, 1, 429),
        Attempt(Outcome.UNKNOWN, MOMENT, 1, 500),
    ]
)


@given(gaps=gaps, rate=st.integers(1, 200), burst=st.integers(1, 20), window=st.floats(1, 5000))
def test_no_window_has_more_slots_than_the_rate_and_the_burst(
    gaps: list[float], rate: int, burst: int, window: float
) -> None:
    limit, now, slots = LimitModel(1000 / rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        slots.append(limit.slot(now))
    assert slots == sorted(slots)
    for number, slot in enumerate(slots):
        inside = [one for one in slots[number:] if one < slot + window]
        assert len(inside) <= rate * window / 1000 + burst + 1e-6


@given(rate=st.integers(1, 200), burst=st.integers(1, 20), count=st.integers(2, 200))
def test_a_backlog_uses_the_whole_rate(rate: int, burst: int, count: int) -> None:
    limit = LimitModel(1000 / rate, burst)
    slots = [limit.slot(0.0) for _ in range(count)]
    assert slots[-1] <= (count - 1) * 1000 / rate + 1e-6


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

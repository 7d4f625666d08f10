"""The scripts in Redis do what the plain models do, whatever happens in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.test_gate import Rig, client
from integration.test_limiter import limiter_of
from models import BreakerModel, LimitModel

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Outcome

__all__ = ["client"]

every_time = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


SETTINGS = (None, *(RateLimit(goals, seconds) for goals, seconds in ((5, 1), (100, 1), (30, 60))))
questions = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.integers(0, 400), st.integers(-20_000, 20_000)),
        st.integers(0, 50),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@every_time
@given(asked=questions, rates=st.lists(st.sampled_from(SETTINGS), min_size=3, max_size=3))
def test_the_limiter_hands_out_the_slots_of_the_model_also_when_the_clock_jumps(
    client: redis.Redis, asked: list[tuple[str, int, int, bool]], rates: list[RateLimit | None]
) -> None:
    client.flushall()
    rig, model = Rig(client), LimitModel()
    # One started after the other, as far as their own clocks tell.
    ages = {"a": 30_000, "b": 20_000, "c": 10_000}
    settings = dict(zip("abc", rates, strict=True))
    for worker, gap, wanted, holds in asked:
        rig.later(gap)
        limiter = limiter_of(client, settings[worker], worker, ages[worker])
        grant = limiter.ask(wanted, holds=holds)
        expected = model.ask(
            worker, rig.now - ages[worker], settings[worker], rig.now, wanted, holds=holds
        )
        assert (grant.rate, grant.count) == (expected.rate, expected.count)
        if grant.count:
            assert grant.first_in_seconds == pytest.approx(expected.first_in_seconds, abs=1e-4)


events = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "deliver", "fail", "fail", "wait"]),
        st.sampled_from("abcd"),
        st.integers(0, 50_000),
    ),
    max_size=60,
)


@every_time
@given(events=events)
def test_the_breaker_in_redis_is_the_breaker_of_the_model(
    client: redis.Redis, events: list[tuple[str, str, int]]
) -> None:
    client.flushall()
    rig = Rig(client, rate_limit="none", max_attempts=1000)
    model = BreakerModel(5, 5000, 60_000, 40_050)
    asked: dict[str, Any] = {}
    for number, (event, token, gap) in enumerate(events):
        rig.later(gap)
        if event == "ask":
            # A goal of its own each time: whether a goal is sent twice is another matter.
            name = f"{token}-{number}"
            admitted = rig.answer(name, token=name) is Answer.GO
            assert admitted == model.admits(name, rig.now)
            if admitted:
                asked[token] = name
        elif token in asked:
            name = asked.pop(token)
            if event == "deliver":
                rig.settle(Outcome.DELIVERED, name, token=name)
                model.succeeded()
            elif event == "fail":
                rig.settle(Outcome.NOT_SENT, name, token=name)
                model.failed(name, rig.now)
            else:
                rig.settle(Outcome.REFUSED, name, token=name, status=429)
                model.was_told_to_wait(name)
        assert rig.gate.breaker() == model.state(rig.now)

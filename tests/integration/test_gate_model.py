"""The scripts in Redis do what the plain models do, whatever happens in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.test_gate import Rig, client
from models import BreakerModel, LimitModel

from ninja_tasks.delivery.gate import Answer
from ninja_tasks.delivery.outcomes import Outcome

__all__ = ["client"]

every_time = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@every_time
@given(
    gaps=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    rate=st.sampled_from([5, 10, 20, 40, 100]),
)
def test_the_limit_hands_out_the_slots_of_the_model(
    client: redis.Redis, gaps: list[int], rate: int
) -> None:
    client.flushall()
    rig = Rig(client, rate_limit=f"{rate}/s")
    model = LimitModel(1000 / rate, (max(1, rate // 10) + 1) / 2)
    for number, gap in enumerate(gaps):
        rig.later(gap)
        wait = model.slot(rig.now) - rig.now
        answer = rig.admit(str(number))
        assert answer.wait_seconds * 1000 == pytest.approx(wait, abs=1)
        assert answer.answer is (Answer.WAIT if wait > 0 else Answer.GO)


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

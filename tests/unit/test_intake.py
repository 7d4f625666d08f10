"""The intake: goals are taken while they may be sent, by workers that want them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis

from ninja_tasks.delivery.gate import Intake as State
from ninja_tasks.worker.steps import Intake


class Worker:
    """Stands for a worker's consumer and its goal channel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: State | redis.RedisError = State.OPEN
        self.asked = 0
        self.decided: list[tuple[bool, bool]] = []
        self.goals = SimpleNamespace(is_wanted=True, decide=self.decide)
        self.app = None
        monkeypatch.setattr(Intake, "_ask", self.ask)
        self.step = Intake(self)

    def decide(self, *, may_send: bool, tries_one: bool) -> None:
        self.decided.append((may_send, tries_one))

    def ask(self, _consumer: Any) -> State:
        self.asked += 1
        if isinstance(self.answer, redis.RedisError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "may_send", "tries_one"),
    [
        (State.OPEN, True, False),
        (State.PROBE, True, True),
        (State.PAUSED, False, False),
        (State.HOLD, False, False),
        (State.BREAKER, False, False),
        (redis.ConnectionError("away"), False, False),
    ],
)
def test_goals_are_taken_while_they_may_be_sent(
    monkeypatch: pytest.MonkeyPatch,
    answer: State | redis.RedisError,
    may_send: bool,
    tries_one: bool,
) -> None:
    worker = Worker(monkeypatch)
    worker.answer = answer
    worker.step.work(worker)
    assert worker.decided == [(may_send, tries_one)]


def test_a_worker_that_takes_no_goals_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch)
    worker.goals.is_wanted = False
    worker.step.work(worker)
    assert (worker.asked, worker.decided) == (0, [])

"""The intake: goals are taken while they may be sent, by workers that want them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from ninja_tasks.delivery.gate import Decision
from ninja_tasks.delivery.gate import Intake as State
from ninja_tasks.worker.steps import Intake


class Worker:
    """Stands for a worker's consumer and its goal channel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: State | redis.RedisError = State.OPEN
        self.asked = 0
        self.decided: list[tuple[bool, bool]] = []
        self.due_in_seconds = math.inf
        self.moved = 0
        self.goals = SimpleNamespace(
            is_wanted=True, is_idle=False, decide=self.decide, wake_mover=self.move
        )
        self.app = None
        monkeypatch.setattr(Intake, "_ask", self.ask)
        self.step = Intake(self)

    def decide(self, *, may_send: bool, tries_one: bool) -> None:
        self.decided.append((may_send, tries_one))

    def move(self) -> None:
        self.moved += 1

    def ask(self, _consumer: Any) -> Decision:
        self.asked += 1
        if isinstance(self.answer, redis.RedisError):
            raise self.answer
        return Decision(self.answer, 0.0, self.due_in_seconds)


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


@pytest.mark.parametrize(
    ("due_in_seconds", "is_idle", "seconds", "moves"),
    [
        (math.inf, False, 1.0, 0),
        (math.inf, True, 2.0, 0),
        (1.5, True, 1.5, 0),
        (0.001, True, 0.25, 0),
        (0.0, True, 0.25, 1),
    ],
)
def test_the_next_question_comes_when_a_parked_goal_is_due(
    monkeypatch: pytest.MonkeyPatch,
    due_in_seconds: float,
    is_idle: bool,
    seconds: float,
    moves: int,
) -> None:
    worker = Worker(monkeypatch)
    worker.due_in_seconds = due_in_seconds
    worker.goals.is_idle = is_idle
    assert worker.step.work(worker) == seconds
    assert worker.moved == moves

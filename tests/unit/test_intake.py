"""The intake: what a thread decides is done in the worker's loop, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ninja_tasks.delivery.gate import Intake as State
from ninja_tasks.message import QUEUE_NAME
from ninja_tasks.worker import steps
from ninja_tasks.worker.steps import Intake


class Loop:
    """Stands for a worker's loop, its consumer and its queues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = {QUEUE_NAME}
        self.soon: list[Callable[[], None]] = []
        self.state = State.OPEN
        self.consumer: Any = SimpleNamespace(
            app=SimpleNamespace(
                amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=self.taken, get=self.get))
            ),
            call_soon=lambda call, *given, **named: self.soon.append(lambda: call(*given, **named)),
        )
        monkeypatch.setattr(steps, "take_goals", self.take)
        monkeypatch.setattr(steps, "leave_goals", lambda _consumer: self.taken.discard(QUEUE_NAME))
        monkeypatch.setattr(Intake, "_ask", lambda _step, _consumer: self.state)
        self.step = Intake(self.consumer)
        monkeypatch.setattr(steps.PeriodicStep, "start", lambda _step, _consumer: None)
        self.step.start(self.consumer)

    def get(self, name: str, default: Any) -> Any:
        return default

    def take(self, _consumer: Any, *, one: bool) -> None:
        self.taken.add(QUEUE_NAME)

    def decide(self, state: State) -> None:
        self.state = state
        self.step.work(self.consumer)

    def turn(self) -> None:
        waiting, self.soon[:] = list(self.soon), []
        for call in waiting:
            call()

    def reconnect(self) -> None:
        self.step.start(self.consumer)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_goals_are_taken_while_they_may_be_sent(loop: Loop) -> None:
    loop.decide(State.PAUSED)
    assert loop.taken
    loop.turn()
    assert not loop.taken
    loop.decide(State.OPEN)
    loop.turn()
    assert loop.taken


def test_a_decision_that_a_new_connection_overtook_is_not_forgotten(loop: Loop) -> None:
    loop.decide(State.PAUSED)
    loop.reconnect()
    loop.turn()
    assert not loop.taken
    loop.decide(State.OPEN)
    loop.turn()
    assert loop.taken

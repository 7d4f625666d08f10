"""Which log lines and exceptions of a worker may become Sentry events."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import sentry_sdk

from ninja_tasks.dead_letters import log_events
from ninja_tasks.dead_letters.log_events import _LogEvents, limit_log_events
from ninja_tasks.message import TASK_NAME


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(log_events.time, "monotonic", lambda: now[0])
    return now


def line(logger: str, number: int = 1) -> dict[str, Any]:
    record = logging.LogRecord(logger, logging.ERROR, "/a.py", number, "%s failed", ("x",), None)
    return {"log_record": record}


def passes(limit: _LogEvents, hint: dict[str, Any], **event: Any) -> int | None:
    """Return how many were held back before an event, ``None`` if this one is held back too."""
    passed = limit(event, hint)
    if passed is None:
        return None
    held_back: int = passed.get("extra", {}).get("held_back_before", -1)
    return held_back


def test_of_each_line_one_event_passes_and_the_pause_doubles_while_it_is_written(
    clock: list[float],
) -> None:
    limit, own = _LogEvents(), line("ninja_tasks.worker.lane")
    assert [passes(limit, own) for _ in range(4)] == [0, None, None, None]
    clock[0] += 299
    assert passes(limit, line("ninja_tasks.worker.lane", 2)) == 0
    assert passes(limit, own) is None
    clock[0] += 2
    assert passes(limit, own) == 4
    clock[0] += 301
    assert passes(limit, own) is None
    clock[0] += 300
    assert passes(limit, own) == 1
    clock[0] += 86_401
    assert passes(limit, own) == 0
    clock[0] += 301
    assert passes(limit, own) == 0


def test_the_applications_own_lines_are_its_own(clock: list[float]) -> None:
    limit = _LogEvents()
    for logger in ("shop", "ninja_tasks_of_the_shop", "celery.app.trace", "celery.beat"):
        assert [passes(limit, line(logger)) for _ in range(3)] == [-1, -1, -1]
    consumer = line("celery.worker.consumer.consumer")
    assert [passes(limit, consumer) for _ in range(3)] == [0, None, None]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> _LogEvents:
    limit = _LogEvents()
    limit.own_client = object()
    monkeypatch.setattr(sentry_sdk, "get_client", lambda: limit.own_client)
    return limit


def test_all_lines_are_limited_in_a_client_that_this_package_has_made(
    own: _LogEvents, clock: list[float]
) -> None:
    assert [passes(own, line("billiard.pool")) for _ in range(3)] == [0, None, None]


def test_exceptions_of_the_task_are_limited_by_their_class(clock: list[float]) -> None:
    limit = _LogEvents()
    for kind in (ValueError, SystemError):
        raised = {"exc_info": (kind, kind(), None)}
        of_task = [passes(limit, raised, transaction=TASK_NAME) for _ in range(3)]
        assert of_task == [0, None, None]
        assert [passes(limit, raised, transaction="shop.pay") for _ in range(2)] == [-1, -1]


def test_what_is_reported_on_purpose_passes_always(own: _LogEvents) -> None:
    assert [passes(own, {}, message="Goal not delivered") for _ in range(3)] == [-1, -1, -1]


def test_the_limit_stands_once_however_often_it_is_asked_for() -> None:
    processors = sentry_sdk.scope.global_event_processors
    before = len(processors)
    try:
        for _ in range(3):
            limit_log_events()
        assert len(processors) <= before + 1
    finally:
        del processors[before:]

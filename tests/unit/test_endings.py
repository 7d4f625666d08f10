"""Which ends of an execution let its message be acknowledged."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import (
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.exceptions import Ignore, Reject, Retry

from ninja_tasks import DeadLettered
from ninja_tasks.delivery.endings import (
    DELIVERED,
    Elsewhere,
    Parked,
    Unwritable,
    is_outcome_stored,
    is_unwritable,
)
from ninja_tasks.errors import Refused


def raised(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001 (a pool's information about it is wanted)
        return ExceptionInfo()


def test_a_delivered_goal_has_a_stored_outcome() -> None:
    assert is_outcome_stored(0, repr(DELIVERED))


@pytest.mark.parametrize("value", [None, "None", DELIVERED, "''"])
def test_a_return_that_does_not_say_delivered_proves_nothing(value: Any) -> None:
    assert not is_outcome_stored(False, value)


STORED = [DeadLettered("one", "rejected"), Parked(exc=Refused("status 503"), when=2), Elsewhere()]
NOT_STORED = [
    Reject("the worker is ending", requeue=True),
    Reject("whatever", requeue=False),
    Unwritable("TypeError"),
    Ignore(),
    Retry(),
    SoftTimeLimitExceeded(),
    TimeLimitExceeded(3),
    Terminated(9),
    WorkerLostError("signal 9"),
    SystemExit(0),
    MemoryError(),
    ValueError("unforeseen"),
]


@pytest.mark.parametrize("error", STORED, ids=lambda one: type(one).__name__)
def test_what_is_raised_after_an_outcome_is_stored_says_so_in_either_form(error: Any) -> None:
    info = raised(error)
    assert is_outcome_stored(1, info)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)
    info.exception = ExceptionWithTraceback(copy, None)
    assert is_outcome_stored(1, info)


@pytest.mark.parametrize("error", NOT_STORED, ids=lambda one: type(one).__name__)
def test_every_other_exception_proves_nothing(error: BaseException) -> None:
    assert not is_outcome_stored(1, raised(error))


def test_a_letter_that_cannot_be_written_is_told_from_other_rejections() -> None:
    error = pickle.loads(pickle.dumps(Unwritable("TypeError")))  # noqa: S301 (made here)
    assert error.requeue
    assert is_unwritable(raised(error))
    assert not is_unwritable(raised(Reject("the worker is ending", requeue=True)))

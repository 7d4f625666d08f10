"""The exceptions: their tree, their texts, and their way between processes."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.utils.serialization import get_pickleable_exception
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from ninja_tasks import errors
from ninja_tasks.errors import InvalidGoal, faults_by_path

FAULTS = {
    "GoalId": ["is missing: give the goal's GUID"],
    "CustomPageScopeParams": {"Revenue": ["must be a string", "must be short"]},
}

#: Each with every argument given, so that a lost one is noticed.
EXAMPLES = [
    errors.NinjaTasksError("something went wrong"),
    InvalidGoal(FAULTS, 3, ["one", "two"]),
    errors.ConfigurationError("ninja_redis_url must be a Redis URL"),
    errors.PublishError("the broker did not confirm", ["one"], ["two", "three"]),
    errors.TransientError("status 503", 7.5),
    errors.NotSent("ConnectTimeout", 7.5),
    errors.Refused("status 503", 7.5),
    errors.UnknownOutcome("ReadTimeout", 7.5),
    errors.DeadLettered("one", "rejected"),
]


def example(name: str) -> Exception:
    found = {type(error).__name__: error for error in EXAMPLES}
    assert name in found, f"add an example of {name} with every argument to EXAMPLES"
    return found[name]


def facts(error: BaseException) -> tuple[Any, ...]:
    return type(error), error.args, vars(error), str(error), repr(error)


# Pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_survives_pickle_with_its_attributes_and_text(
    name: str, protocol: int
) -> None:
    error = example(name)
    assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)  # noqa: S301


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_survives_copying(name: str) -> None:
    assert facts(copy.copy(example(name))) == facts(example(name))


@pytest.mark.parametrize("name", errors.__all__)
def test_celery_sends_every_exception_between_processes_as_it_is(name: str) -> None:
    error = example(name)
    assert get_pickleable_exception(error) is error


@pytest.mark.parametrize("name", errors.__all__)
def test_a_prefork_worker_hands_every_exception_to_its_parent_as_it_is(name: str) -> None:
    try:
        raise example(name)
    except errors.NinjaTasksError:
        information = ExceptionInfo(sys.exc_info())
    arrived = pickle.loads(pickle.dumps(information))  # noqa: S301
    cause = arrived.exception
    assert facts(getattr(cause, "exc", cause)) == facts(example(name))


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (InvalidGoal(FAULTS), {"messages": FAULTS, "index": None, "delivery_ids": ()}),
        (
            InvalidGoal(FAULTS, index=0, delivery_ids=["one"]),
            {"messages": FAULTS, "index": 0, "delivery_ids": ["one"]},
        ),
        (errors.PublishError("away"), {"delivery_ids": (), "uncertain_ids": ()}),
        (
            errors.PublishError("away", uncertain_ids=["one"], delivery_ids=["two"]),
            {"delivery_ids": ["two"], "uncertain_ids": ["one"]},
        ),
        (errors.Refused("status 503"), {"retry_after_seconds": None}),
        (errors.Refused("status 429", retry_after_seconds=2.0), {"retry_after_seconds": 2.0}),
        (
            errors.DeadLettered(reason="expired", delivery_id="one"),
            {"delivery_id": "one", "reason": "expired"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_become_attributes(error: Exception, attributes: dict[str, Any]) -> None:
    assert vars(error) == attributes
    assert vars(pickle.loads(pickle.dumps(error))) == attributes  # noqa: S301


# The tree


def drawn_tree() -> dict[str, tuple[str | None, list[str]]]:
    """Read each class of the module's docstring with its parent and the bases in parentheses."""
    tree: dict[str, tuple[str | None, list[str]]] = {}
    path: list[str] = []
    pattern = re.compile(
        r"^    ([│ ]*(?:[├└]── )?)([A-Z]\w+)(?: \(([\w, ]+)\))?(?:  .*)?$", re.MULTILINE
    )
    for branch, name, bases in pattern.findall(errors.__doc__ or ""):
        del path[len(branch) // 4 :]
        tree[name] = (path[-1] if path else None, bases.split(", ") if bases else [])
        path.append(name)
    return tree


def exception_classes() -> dict[str, type[BaseException]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == errors.__name__
    }


def test_every_exception_class_is_exported() -> None:
    assert errors.__all__ == sorted(exception_classes())


def test_the_drawn_tree_shows_every_class_below_its_parent() -> None:
    parents = {
        name: next(
            (base.__name__ for base in value.__bases__ if base.__module__ == errors.__name__), None
        )
        for name, value in exception_classes().items()
    }
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == parents


def test_the_drawn_tree_names_the_builtin_bases() -> None:
    builtin = {
        name: [
            base.__name__
            for base in value.__bases__
            if base.__module__ == "builtins" and base is not Exception
        ]
        for name, value in exception_classes().items()
    }
    assert {name: bases for name, (_, bases) in drawn_tree().items()} == builtin


def test_callers_can_catch_what_they_would_catch_without_this_package() -> None:
    assert issubclass(InvalidGoal, ValueError)
    assert issubclass(errors.PublishError, OperationalError)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_says_when_it_is_raised(name: str) -> None:
    sentence = (getattr(errors, name).__doc__ or "").partition("\n\n")[0]
    assert sentence.startswith(("Raised when ", "Raised in the worker when ", "Root of "))
    assert sentence.endswith(".")


# Texts


def test_the_text_of_an_invalid_goal_names_every_fault_by_its_path() -> None:
    assert str(InvalidGoal(FAULTS)) == (
        "invalid goal: GoalId: is missing: give the goal's GUID; "
        "CustomPageScopeParams.Revenue: must be a string; "
        "CustomPageScopeParams.Revenue: must be short"
    )


def test_the_text_of_an_invalid_goal_names_its_index() -> None:
    assert str(InvalidGoal({"Ip": ["is odd"]}, index=0)) == "invalid goal at index 0: Ip: is odd"


@pytest.mark.parametrize(
    ("messages", "faults"),
    [
        ({}, []),
        ({"Ip": "is odd"}, [("Ip", "is odd")]),
        ({"_schema": ["is odd"]}, [("goal", "is odd")]),
        ({"Params": {"_schema": ["is odd"]}}, [("Params", "is odd")]),
        ({"a": {"b": {"c": ["one", "two"]}}}, [("a.b.c", "one"), ("a.b.c", "two")]),
        ({7: ["is odd"], None: ["too"]}, [("7", "is odd"), ("None", "too")]),
    ],
)
def test_faults_are_listed_by_dotted_path(
    messages: dict[Any, Any], faults: list[tuple[str, str]]
) -> None:
    assert list(faults_by_path(messages)) == faults


def test_a_long_name_is_cut_in_the_text() -> None:
    text = str(InvalidGoal({"x" * 10_000: ["is odd"], "Params": {"y" * 10_000: ["too"]}}))
    assert text == f"invalid goal: {'x' * 64}: is odd; Params.{'y' * 64}: too"


def test_a_name_of_escapes_is_cut_too() -> None:
    assert len(str(InvalidGoal({"\x1b" * 10_000: ["is odd"]}))) < 100


def test_control_characters_in_a_name_are_escaped() -> None:
    name = "Ip\n\x1b[31m\x00\u2028\u202e\ud800"
    text = str(InvalidGoal({name: ["is odd"]}))
    assert text == r"invalid goal: Ip\n\x1b[31m\x00\u2028\u202e\ud800: is odd"


names = st.text() | st.integers() | st.binary() | st.none() | st.tuples(st.text())


@given(st.dictionaries(names, st.just(["is odd"]) | st.dictionaries(names, st.just(["is odd"]))))
def test_no_name_breaks_the_line_of_a_text(messages: dict[Any, Any]) -> None:
    text = str(InvalidGoal(messages))
    assert text.isascii()
    assert text.isprintable()


def test_a_dead_letter_names_the_command_that_shows_it() -> None:
    assert "ninja-tasks dead show order-17" in str(errors.DeadLettered("order-17", "rejected"))

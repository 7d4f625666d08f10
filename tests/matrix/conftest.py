"""The table of ``make matrix``: what passed with which versions, one row for each run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

_PACKAGES = {
    "celery": "Celery",
    "kombu": "kombu",
    "redis": "redis-py",
    "click": "click",
    "marshmallow": "marshmallow",
    "sentry-sdk": "sentry-sdk",
}
#: Which column a test fills.
_COLUMNS = {
    "test_one_goal_is_published": "enqueue_goal",
    "test_batches_are_published": "enqueue_goals",
    "test_all_goals_are_delivered[prefork]": "delivered, prefork",
    "test_all_goals_are_delivered[threads]": "delivered, threads",
    "test_all_goals_are_delivered[solo]": "delivered, solo",
    "test_a_killed_worker_loses_no_goal[prefork]": "kill -9, prefork",
    "test_a_killed_worker_loses_no_goal[threads]": "kill -9, threads",
    "test_a_killed_worker_loses_no_goal[solo]": "kill -9, solo",
}
_OTHERS = ("tests/unit/", "tests/integration/")
_ENDED = ("passed", "failed", "error")
#: Name of the property by which a test hands over its cell.
_CELL = "cell"


@pytest.fixture
def cell(record_property: Any) -> Callable[[str], None]:
    """Return a function that puts a text into the test's cell of the table."""

    def note(text: str) -> None:
        record_property(_CELL, text)

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    row = {title: version(name) for name, title in _PACKAGES.items()}
    row["Python"] = platform.python_version()
    reports = [one for kind in _ENDED for one in terminalreporter.stats.get(kind, [])]
    row["unit, integration"] = _counted(one for one in reports if one.nodeid.startswith(_OTHERS))
    row |= dict.fromkeys(_COLUMNS.values(), "not run")
    for report in reports:
        if (column := _COLUMNS.get(report.nodeid.rpartition("::")[2])) is not None:
            text = dict(report.user_properties).get(_CELL, "")
            row[column] = text if report.passed else f"FAILED {text}".strip()
    table = [f"| {' | '.join(cells)} |" for cells in (row, ["---"] * len(row), row.values())]
    terminalreporter.section("matrix")
    for line in table:
        terminalreporter.line(line)
    if path := os.environ.get("NINJA_MATRIX_ROW"):
        Path(path).write_text("\n".join([*table, ""]))


def _counted(reports: Iterable[Any]) -> str:
    passed = [report.passed for report in reports]
    if not passed:
        return "not run"
    return f"{len(passed)} passed" if all(passed) else f"FAILED {passed.count(False)}"

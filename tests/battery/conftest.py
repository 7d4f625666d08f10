"""Shops for the battery: a running pair for the scenes that can share it, and fresh ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rabbitmq_node import Node, is_installed, rabbitmq_node

from battery.rig import Opener, Pair, Place
from ninja_tasks.testing import embedded_server

#: Name of the property by which a test hands a row to the table of figures.
_FIGURE = "battery"


@pytest.fixture
def compared(request: pytest.FixtureRequest, record_property: Any) -> Callable[..., None]:
    """Return a function that puts a row into the table of figures at the end of the run."""

    def note(without: object, with_: object, ratio: float | None = None) -> None:
        shown = "" if ratio is None else f"{ratio:.2f}"
        record_property(_FIGURE, (request.node.name, str(without), str(with_), shown))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = sorted(
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _FIGURE
    )
    if rows:
        terminalreporter.section("without and with install")
        for name, without, with_, ratio in rows:
            terminalreporter.line(f"{name}: {without} | {with_} {ratio}")


@pytest.fixture(scope="session")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if not is_installed():
        pytest.fail("RabbitMQ is needed: apt-get install rabbitmq-server")
    with rabbitmq_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="session")
def _results() -> Iterator[str]:
    """Run one Redis for the results of all shops: those that are thrown away later tell it so."""
    with embedded_server() as server:
        yield server.url
        gc.collect()


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path, _results: str) -> Iterator[Opener]:
    """Open shops without a worker yet."""
    with ExitStack() as stack:
        yield Opener(tmp_path, _results, lambda: request.getfixturevalue("_node"), stack)


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _results: str,
    place: Place,
) -> Iterator[Pair]:
    """A pair with a worker each, which the tests of a place share."""
    directory = tmp_path_factory.mktemp("running")
    with ExitStack() as stack:
        opener = Opener(directory, _results, lambda: request.getfixturevalue("_node"), stack)
        pair = opener.pair(place)
        pair.start(place.pool)
        for shop in pair:
            # A worker of greenlets says that it is ready before it hears of control.
            shop.stats()
        yield pair

"""Fixtures that pytest finds by itself wherever this package is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..outbox import OutboxGoal
    from .embedded import EmbeddedServer
    from .fake_api import FakeSalesNinja

__all__ = ["fake_sales_ninja", "ninja_outbox", "ninja_redis"]


@pytest.fixture
def fake_sales_ninja() -> Iterator[FakeSalesNinja]:
    """A fake Sales Ninja of its own for each test; set ``ninja_api_url`` to its ``.url``.

    Script its answers with ``.script(503, 200)``, wait with ``.wait_for(1)``, and look at what
    came in ``.delivered`` and ``.requests``.
    """
    from .fake_api import FakeSalesNinja

    with FakeSalesNinja() as api:
        yield api


@pytest.fixture
def ninja_outbox() -> Iterator[list[OutboxGoal]]:
    """The goals that the test has enqueued, none of which is sent: no broker and no Redis is used.

    Each has a ``.delivery_id``, the API's JSON ``.body``, its ``.key`` and ``.on_unknown``.
    """
    from ..outbox import outbox

    with outbox() as goals:
        yield goals


@pytest.fixture(scope="session")
def ninja_redis() -> Iterator[EmbeddedServer]:
    """A real Valkey or Redis for the whole session; set ``ninja_redis_url`` to its ``.url``.

    The tests share its data. Without a server to run, a test that wants it fails.
    """
    from .embedded import embedded_server

    with embedded_server() as server:
        yield server

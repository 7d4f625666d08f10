"""For tests, for development and for the demo: a fake Sales Ninja, a real Valkey, an outbox.

The names load on first use, because pytest imports this package in every project that has it
installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..outbox import OutboxGoal, outbox
    from .answers import Answer, AnyAnswer, CloseConnection, Hang
    from .embedded import EmbeddedServer, embedded_server
    from .fake_api import FakeSalesNinja, ReceivedGoal

__all__ = [
    "Answer",
    "AnyAnswer",
    "CloseConnection",
    "EmbeddedServer",
    "FakeSalesNinja",
    "Hang",
    "OutboxGoal",
    "ReceivedGoal",
    "embedded_server",
    "outbox",
]

_HOMES = {
    "Answer": ".answers",
    "AnyAnswer": ".answers",
    "CloseConnection": ".answers",
    "EmbeddedServer": ".embedded",
    "FakeSalesNinja": ".fake_api",
    "Hang": ".answers",
    "OutboxGoal": "..outbox",
    "ReceivedGoal": ".fake_api",
    "embedded_server": ".embedded",
    "outbox": "..outbox",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)

"""The Lua scripts that run inside Redis, and what they share: the clock and the ledger's pages."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import redis

__all__ = ["read", "registered", "text_of"]

_SHARED = ("clock", "page")


def read(name: str) -> str:
    """Return the text of one file."""
    return files(__package__).joinpath("lua", f"{name}.lua").read_text()


def text_of(name: str) -> str:
    """Return the whole text of a script."""
    return "".join(read(part) for part in (*_SHARED, name))


def registered(client: redis.Redis, name: str) -> Callable[..., Any]:
    """Return a script as a callable of ``keys`` and ``args``: ``EVALSHA``, and ``EVAL`` once."""
    script: Callable[..., Any] = client.register_script(text_of(name))
    return script

"""Whether messages may be published to a Redis that is full.

After one command that takes no memory, a full Redis lets a script write. That is right where as
much memory is freed at once: a parked goal that goes back to a queue in the same Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["PUT", "although_full", "is_though_full"]

#: KEYS: any hash, list.  ARGV: message
PUT = "redis.call('HDEL', KEYS[1], '') return redis.call('LPUSH', KEYS[2], ARGV[1])"

_ALTHOUGH_FULL: ContextVar[bool] = ContextVar("although_full", default=False)


@contextmanager
def although_full() -> Iterator[None]:
    """Let the crash-safe transport publish batches of messages to a Redis that is full."""
    before = _ALTHOUGH_FULL.set(True)
    try:
        yield
    finally:
        _ALTHOUGH_FULL.reset(before)


def is_though_full() -> bool:
    """Return whether this is inside :func:`although_full`."""
    return _ALTHOUGH_FULL.get()

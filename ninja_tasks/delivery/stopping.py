"""Whether this worker is ending: one byte of memory that its child processes share.

A signal to end reaches the main process only. A child that waits for Redis, or for a slot of the
limit, has to hear of it, or the worker could not end.
"""

from __future__ import annotations

import mmap

__all__ = ["is_stopping", "stop"]

#: Made when the main process imports this, before it forks.
_FLAG = mmap.mmap(-1, 1)


def stop() -> None:
    """Tell this worker's processes that it is ending."""
    _FLAG[0] = 1


def is_stopping() -> bool:
    """Return whether the worker was told to end."""
    return _FLAG[0] == 1

"""The worker's loop, for other threads: they hand it functions to call, and it wakes for them."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Loop"]


class Loop:
    """Calls functions in the loop of a worker's consumer.

    Celery's own ``call_soon`` wakes the loop only from the version 5.7 of kombu on.

    Args:
        consumer: the worker's.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._calls: deque[Callable[[], object]] = deque()
        self._ear: socket.socket | None = None
        self._bell: socket.socket | None = None
        self._is_rung = False

    def call_soon(self, call: Callable[[], object]) -> None:
        """Let the loop call a function, in the order of these calls; from any thread."""
        if self._consumer.hub is None:
            # A loop without a hub looks for calls by itself, at least every two seconds.
            self._consumer.call_soon(call)
            return
        self._calls.append(call)
        self._ring()

    def register(self, hub: Any) -> None:
        """Be heard by the hub; it forgets everybody when a connection is lost."""
        if self._ear is None:
            self._bell, self._ear = socket.socketpair()
            self._bell.setblocking(False)
            self._ear.setblocking(False)
        hub.add_reader(self._ear.fileno(), self.work)
        if self._calls:
            self._is_rung = False
            self._ring()

    def work(self) -> None:
        """Call what is to be called; the loop does so by itself while it runs."""
        if self._ear is not None:
            with suppress(BlockingIOError):
                self._ear.recv(64)
        # Before the calls are read: one that comes now must ring again.
        self._is_rung = False
        try:
            for _ in range(len(self._calls)):
                self._calls.popleft()()
        finally:
            if self._calls:
                self._ring()

    def close(self) -> None:
        """Be heard no more."""
        for one in (self._bell, self._ear):
            if one is not None:
                one.close()

    def _ring(self) -> None:
        if not self._is_rung and self._bell is not None:
            self._is_rung = True
            with suppress(OSError):
                self._bell.send(b"\0")

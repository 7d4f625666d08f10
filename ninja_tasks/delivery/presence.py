"""Which worker processes are alive: heartbeats in Redis, by which the gate knows a lost worker.

A process that delivers goals is named by its worker and its pid. The worker's main process writes a
key for itself and for each of its children, every two seconds; a key that is not renewed lives for
six. A goal that was claimed by a process whose key is gone was lost with it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from secrets import token_hex
from typing import Any

import redis

from ..redis_errors import reason_of
from .scripts import registered
from .state import Keys

__all__ = ["DEAD_AFTER_SECONDS", "Heartbeat", "process_name"]

logger = logging.getLogger(__name__)

DEAD_AFTER_SECONDS = 6.0
_EVERY_SECONDS = 2.0
_AFTER_A_FAILURE_SECONDS = 0.5

#: Children that a worker forks inherit it.
_WORKER = token_hex(4)


def process_name(pid: int | None = None) -> str:
    """Return the name of a process of this worker, by default of this one."""
    return f"{_WORKER}.{pid or os.getpid()}"


class Heartbeat(threading.Thread):
    """Says that processes are alive until it is ended, also while the worker's loop is blocked.

    Args:
        client: of the state's Redis.
        keys: names of its keys.
        pids: returns the pids of the worker's child processes.
    """

    def __init__(
        self, client: redis.Redis, keys: Keys, pids: Callable[[], Iterable[int]] = tuple
    ) -> None:
        super().__init__(name="ninja_tasks-heartbeat", daemon=True)
        self._client = client
        self._keys = keys
        self._pids = pids
        self._beat: Callable[..., Any] = registered(client, "beat")
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until :meth:`end`."""
        seconds = 0.0
        while not self._ended.wait(seconds):
            try:
                self.beat()
                seconds = _EVERY_SECONDS
            except redis.RedisError as error:
                if seconds != _AFTER_A_FAILURE_SECONDS:
                    logger.warning("no heartbeat: %s", reason_of(error))
                seconds = _AFTER_A_FAILURE_SECONDS

    def beat(self) -> None:
        """Say once that all processes are alive."""
        pids = {os.getpid(), *self._pids()}
        self._beat(
            keys=[self._keys.gate, *(self._keys.heartbeat(process_name(pid)) for pid in pids)],
            args=[round(DEAD_AFTER_SECONDS * 1000)],
        )

    def end(self) -> None:
        """Stop; the keys live on for a while."""
        self._ended.set()

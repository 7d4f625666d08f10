"""What a process still has to write for goals whose messages went back before Redis took it.

A thread waits seconds for Redis, then it gives its goal's message back. What it knows of the goal
(what came of the request, or that its claim is void) is not lost by that: it is kept here, in
memory, and written as soon as Redis takes writes again. Until then the goal's claim keeps other
workers from sending it. Should the process end before, the claim ends with it, and the goal is sent
again and marked.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from ..redis_errors import can_pass, reason_of

__all__ = ["Unstored"]

logger = logging.getLogger(__name__)

_MOST = 10_000
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Unstored:
    """Writes that wait for Redis, and a thread that tries them; of one process."""

    def __init__(self) -> None:
        self._writes: deque[Callable[[], object]] = deque(maxlen=_MOST)
        self._lock = threading.Lock()
        self._is_running = False
        self._pid = os.getpid()

    def keep(self, write: Callable[[], object]) -> None:
        """Write something later.

        Args:
            write: must be safe to repeat. Of ten thousand that wait, the oldest is forgotten.
        """
        if self._pid != os.getpid():
            # The parent writes its own.
            self.__init__()  # type: ignore[misc]
        with self._lock:
            self._writes.append(write)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="ninja_tasks-unstored", daemon=True).start()

    def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while (write := self._next()) is not None:
            try:
                write()
            except Exception as error:  # noqa: BLE001 (the others have to be written all the same)
                if not can_pass(error):
                    logger.warning("what came of a goal cannot be stored: %s", reason_of(error))
                    continue
                self._writes.appendleft(write)
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                pause_seconds = _FIRST_PAUSE_SECONDS

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._writes:
                return self._writes.popleft()
            self._is_running = False
            return None

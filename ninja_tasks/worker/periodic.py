"""A step of the worker's consumer that does something again and again, in a thread of its own.

What such a step asks of Redis can take seconds, or never be answered. The worker's loop, which all
tasks of the application need, must not wait for that. What a step decides about consuming goes back
to the loop by ``consumer.call_soon``.
"""

from __future__ import annotations

import logging
import threading
from functools import cached_property
from typing import Any

import redis
from celery import bootsteps

from ..config import Settings, settings_of
from ..delivery.state import shared_client
from ..redis_errors import reason_of

__all__ = ["PeriodicStep"]

logger = logging.getLogger(__name__)


class PeriodicStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Works while the consumer is connected, and goes on after an error.

    Attributes:
        seconds: from one time to the next.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    seconds = 1.0

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.app = consumer.app
        self._thread: threading.Thread | None = None
        self._is_connected = threading.Event()
        self._has_ended = threading.Event()
        self._is_woken = threading.Event()
        self._troubled = False

    @cached_property
    def settings(self) -> Settings:
        """The application's settings."""
        return settings_of(self.app)

    @cached_property
    def state(self) -> redis.Redis:
        """The Redis that holds state."""
        return shared_client(self.settings)

    def start(self, consumer: Any) -> None:
        """Begin; called in the worker's loop after each connection to the broker."""
        self._is_connected.set()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(consumer,), name=self.name, daemon=True
            )
            self._thread.start()

    def stop(self, consumer: Any) -> None:
        """Pause; called in the worker's loop when the connection is lost, and at its end."""
        self._is_connected.clear()

    def wake(self) -> None:
        """Begin the next round now; from any thread."""
        self._is_woken.set()

    def shutdown(self, consumer: Any) -> None:
        """End; the thread does not begin another round."""
        self._has_ended.set()
        self._is_connected.set()
        self._is_woken.set()

    def work(self, consumer: Any) -> float:
        """Do it once, in the step's thread, and return the seconds until the next time."""
        raise NotImplementedError

    def _run(self, consumer: Any) -> None:
        while not self._has_ended.is_set():
            self._is_connected.wait()
            if not self._has_ended.is_set():
                # Before the round: who wakes it knows of something new.
                self._is_woken.clear()
                self._is_woken.wait(self._round(consumer))

    def _round(self, consumer: Any) -> float:
        try:
            seconds = self.work(consumer)
        except Exception as error:  # noqa: BLE001 (a step that ends would leave goals waiting)
            if not self._troubled:
                logger.warning("%s goes on later: %s", self.name, reason_of(error))
            self._troubled = True
            return self.seconds
        self._troubled = False
        return seconds

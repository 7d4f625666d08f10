"""The base class of ``reach_goal``: what it holds in each process, and how it retries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import redis
from celery import Task

from ..config import Settings, settings_of
from ..errors import TransientError
from ..message import QUEUE_NAME, REDACTED_REPRESENTATION
from .client import SalesNinja
from .gate import Gate
from .outcomes import Attempt, Verdict, decide
from .record import DeliveryRecord
from .state import connect, until_stored

__all__ = ["DeliveryTask"]


class DeliveryTask(Task):  # type: ignore[misc]
    """A task that delivers goals.

    Celery makes one instance for each application and process, so what is cached here is shared by
    the threads of a worker and is not shared by its child processes.
    """

    #: A message is acknowledged after its goal's fate was stored, and comes back otherwise.
    acks_late = True
    reject_on_worker_lost = True
    #: How long to go on is decided by the goal's record: some attempts are not charged.
    max_retries = None
    #: Wrong arguments reach the task, which makes a dead letter of them.
    typing = False
    ignore_result = True
    queue = QUEUE_NAME
    serializer = "json"

    @cached_property
    def settings(self) -> Settings:
        """The application's settings."""
        return settings_of(self.app)

    @cached_property
    def state(self) -> redis.Redis:
        """The Redis that holds state."""
        return connect(self.settings)

    @cached_property
    def gate(self) -> Gate:
        """The books of deliveries."""
        return Gate(self.settings, self.state)

    @cached_property
    def api(self) -> SalesNinja:
        """The HTTP client."""
        return SalesNinja(self.settings)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any
    ) -> Any:
        """Publish as Celery does, without the arguments' text, which Flower and logs would show.

        A retry is published until the broker takes it: Celery would drop the goal instead.
        """
        publish = partial(
            super().apply_async, args, kwargs, *positional, **{**options, **REDACTED_REPRESENTATION}
        )
        return until_stored(publish, self.request.id) if options.get("retries") else publish()

    def retry(self, *, exc: TransientError, countdown: float, **options: Any) -> Any:
        """Let Celery retry, but not before the time that the API asked for.

        The next attempt gets the goal as it is known now, with its time, and its record.
        """
        carried = self.request.carried
        return super().retry(
            args=carried["args"],
            kwargs={},
            headers=carried["headers"],
            exc=exc,
            countdown=max(countdown, exc.retry_after_seconds or 0),
            **options,
        )

    def carry(self, body: Mapping[str, Any], record: DeliveryRecord) -> None:
        """Set what the next attempt gets if this one ends in a retry."""
        self.request.carried = {"args": (body,), "headers": record.headers()}

    def settle(self, record: DeliveryRecord, attempt: Attempt) -> None:
        """Write down what came of an attempt; returns when it is stored."""
        self.gate.settle(record, attempt, datetime.now(UTC))

    def verdict(self, record: DeliveryRecord, attempt: Attempt) -> Verdict:
        """Return what happens to the goal after its last attempt."""
        return decide(
            attempt,
            charged=record.charged,
            max_attempts=self.settings.max_attempts,
            on_unknown=record.on_unknown or self.settings.on_unknown,
        )

"""Celery's request of a goal: when its message is acknowledged, and what of it can be seen.

Celery acknowledges a message at many places: after a success, a failure, a time limit, a lost
process, a revocation. What it does there depends on the application's settings and annotations.
Here each of these places asks :mod:`ninja_tasks.delivery.endings` first: unless the outcome of the
goal is stored, the message goes back to the queue.

Nothing that shows a request (``inspect``, Flower, events, log lines) shows the goal.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.request import Request, revoked_tasks, task_ready

from ..delivery.endings import is_outcome_stored, is_unwritable
from ..message import REDACTED_REPRESENTATION, TASK_NAME

__all__ = ["GoalRequest", "redact_pool_log"]

logger = logging.getLogger(__name__)


class GoalRequest(Request):  # type: ignore[misc]
    """A request for the delivery of one goal.

    The time limits of the message's sender do not apply. A goal cannot be revoked: a revocation
    is logged, and the goal is delivered.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        # Celery makes a subclass for each task, whose on_success acknowledges without asking.
        super().__init_subclass__(**options)
        if "on_success" in vars(cls):
            del cls.on_success

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._outcome_is_stored = False
        self.time_limits = (None, None)
        self._argsrepr = REDACTED_REPRESENTATION["argsrepr"]
        self._kwargsrepr = REDACTED_REPRESENTATION["kwargsrepr"]
        self._request_dict.update(REDACTED_REPRESENTATION)
        if self._app.conf.result_extended:
            # The result backend would keep the goal itself.
            self._ignore_result = self._request_dict["ignore_result"] = True
        # Celery would skip a goal that a result backend knows; the ledger knows more.
        self._delivery_info["redelivered"] = False

    def on_success(self, failed__retval__runtime: Any, **options: Any) -> Any:
        """Handle the tracer's result, which may be that of a failure."""
        if not isinstance(failed__retval__runtime, tuple):
            # A pool of threads reports a SystemExit this way.
            return self.on_failure(failed__retval__runtime, return_ok=True)
        failed, value, _runtime = failed__retval__runtime
        self._outcome_is_stored = is_outcome_stored(failed, value)
        if failed or self._outcome_is_stored:
            return super().on_success(failed__retval__runtime, **options)
        task_ready(self)
        return self.acknowledge()

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> Any:
        """Handle an exception; a goal whose letter cannot be written leaves its bytes as one."""
        if is_unwritable(exc_info):
            task_ready(self)
            # Whoever buries the message acknowledges it.
            self.acknowledged = True
            return self.message.refuse(exc_info.exception)
        return super().on_failure(exc_info, *arguments, **options)

    def acknowledge(self) -> None:
        """Acknowledge the message if the outcome of its goal is stored, else return it."""
        if self._outcome_is_stored:
            super().acknowledge()
        elif not self.acknowledged:
            logger.warning("goal %s goes back to the queue: its outcome is not stored", self.id)
            super().reject(requeue=True)

    def reject(self, requeue: bool = False) -> None:
        """Return the message to the queue; no goal is dropped.

        Args:
            requeue: what Celery would do; it makes no difference.
        """
        super().reject(requeue=True)

    def revoked(self) -> bool:
        """Return ``False``: a goal that was enqueued is delivered or becomes a dead letter."""
        if self.id in revoked_tasks:
            logger.warning("goal %s cannot be revoked and is delivered", self.id)
        return False

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what ``inspect`` shows of the request.

        Args:
            safe: makes no difference: the goal is never shown.
        """
        return dict(super().info(safe=True))


def redact_pool_log(record: logging.LogRecord) -> bool:
    """Take the goal out of the line by which a pool logs, at DEBUG, what it is given.

    A filter for the logger ``celery.pool``.
    """
    if isinstance(record.args, tuple) and any(TASK_NAME in str(one) for one in record.args):
        record.args = (*record.args[:1], *["<goal>"] * (len(record.args) - 1))
    return True

"""How a worker receives goals: one that comes with an ETA goes to the task at once, which parks it.

Celery would keep the message in the worker's memory until it is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.strategy import default

from ..message import NOT_BEFORE_HEADER

__all__ = ["without_eta"]


def without_eta(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's own handler of messages, which no longer sees an ETA."""
    receive: Callable[..., Any] = default(task, app, consumer, **options)

    def on_message(message: Any, body: Any, *arguments: Any, **more: Any) -> Any:
        # The first version of Celery's protocol has the ETA in the body.
        for part in (message.headers, body):
            if isinstance(part, dict) and part.get("eta"):
                part[NOT_BEFORE_HEADER] = part["eta"]
                part["eta"] = None
        return receive(message, body, *arguments, **more)

    return on_message

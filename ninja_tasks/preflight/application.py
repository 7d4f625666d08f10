"""What the application's own configuration means for goals, where delivery cannot overrule it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery import Celery

from ..delivery.task import RELIED_ON
from ..message import TASK_NAME
from .finding import FAULT, OK, WARNING, Finding

__all__ = ["judge_application"]


def judge_application(app: Celery, broker_kind: str | None) -> list[Finding]:
    """Return what is to be said of an application's configuration.

    Args:
        app: the application.
        broker_kind: what kombu calls the kind of broker; ``None`` if it knows none.
    """
    found = [
        *_eager(app.conf),
        *_cancelling(app.conf),
        *_annotations(app.annotations),
        *(_ending(app.conf) if broker_kind == "amqp" else ()),
    ]
    return found or [Finding(OK, "application", "the configuration leaves goals alone")]


def _eager(configuration: Mapping[str, Any]) -> Iterator[Finding]:
    if configuration["task_always_eager"]:
        yield Finding(
            FAULT,
            "application.eager",
            "task_always_eager is on, as in tests: no goal that this application enqueues is sent",
            "turn it off where goals are to be delivered",
        )


def _cancelling(configuration: Mapping[str, Any]) -> Iterator[Finding]:
    if configuration["worker_cancel_long_running_tasks_on_connection_loss"]:
        yield Finding(
            WARNING,
            "application.cancelling",
            "worker_cancel_long_running_tasks_on_connection_loss is on: when a worker loses the "
            "broker, requests that are under way are cut off, and their goals may be counted twice",
            "turn it off, or run goals in workers of their own: celery -A ninja_tasks worker",
        )


def _ending(configuration: Mapping[str, Any]) -> Iterator[Finding]:
    if not configuration["broker_channel_error_retry"]:
        yield Finding(
            WARNING,
            "application.ending",
            "broker_channel_error_retry is off: when a node of RabbitMQ comes back that still "
            "holds a queue of a worker's lost connection, the worker ends",
            "turn it on, or let a supervisor start the worker again",
        )


def _annotations(annotations: Iterable[Any]) -> Iterator[Finding]:
    own = [one.get(TASK_NAME) or {} for one in annotations if isinstance(one, Mapping)]
    names = sorted({name for one in own for name in one if name.removeprefix("@") in RELIED_ON})
    if names:
        yield Finding(
            WARNING,
            "application.annotations",
            f"task_annotations of {TASK_NAME} do not apply: {', '.join(names)}",
            "remove them; the settings of this package (ninja-tasks --help) say how goals are sent",
        )

"""How workers take goals from the broker, and with which options of the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tested import NEWEST_KOMBU
from .finding import FAULT, OK, WARNING, Finding

__all__ = ["judge_transport"]

#: What a worker needs beside the request: for Redis to admit the goal and to store its outcome.
_STOCK_MARGIN_SECONDS = 30
_STOCK_DEFAULT_SECONDS, _LONGEST_STOCK_SECONDS = 3600, 600


def judge_transport(
    transport: str,
    broker_kind: str | None,
    options: Mapping[str, Any],
    *,
    request_seconds: float,
    remote_control: bool,
    kombu_is_tested: bool = True,
) -> list[Finding]:
    """Return what is to be said of the way from the broker to the workers.

    Args:
        transport: the setting ``transport``.
        broker_kind: what kombu calls the kind of broker; ``None`` if it knows none.
        options: Celery's ``broker_transport_options``.
        request_seconds: how long a request to the API may take.
        remote_control: Celery's ``worker_enable_remote_control``.
        kombu_is_tested: whether it is none that is newer than all that were tested.
    """
    if broker_kind not in ("redis", "amqp", None):
        return [
            Finding(
                WARNING,
                "transport",
                f"nothing is promised for a broker of the kind {broker_kind}: it may lose goals",
                "use Redis, Valkey or RabbitMQ",
            )
        ]
    if broker_kind != "redis":
        return []
    seconds = options.get("visibility_timeout")
    if transport == "crash-safe" and kombu_is_tested:
        return [
            Finding(OK, "transport", "a killed worker loses no goal, which comes back in seconds")
        ]
    remedy = 'leave ninja_transport out, or set it to "crash-safe"'
    if transport == "crash-safe":
        remedy = (
            f"pip install 'kombu=={NEWEST_KOMBU}.*', the newest that this version of ninja-tasks "
            "was tested with, or upgrade ninja-tasks"
        )
    return [
        Finding(
            WARNING,
            "transport",
            "workers take goals by Celery's own transport: one that is killed can lose a goal that "
            "it is just fetching",
            remedy,
        ),
        _stock_visibility(_STOCK_DEFAULT_SECONDS if seconds is None else seconds, request_seconds),
        _remote_control(enabled=remote_control),
    ]


def _stock_visibility(seconds: Any, request_seconds: float) -> Finding:
    name, needed = "visibility_timeout", request_seconds + _STOCK_MARGIN_SECONDS
    if not _is_number(seconds):
        return _no_number(name)
    if seconds < needed:
        return Finding(
            FAULT,
            name,
            f"visibility_timeout is {seconds:g} s, and a request may take {request_seconds:g} s: "
            "Celery's own transport hands out the same goal again and again",
            f"set at least {needed:g} s, or leave ninja_transport out",
        )
    if seconds > _LONGEST_STOCK_SECONDS:
        return Finding(
            WARNING,
            name,
            f"visibility_timeout is {seconds:g} s: so long the goals of a killed worker wait",
            f"set {needed:g} to {_LONGEST_STOCK_SECONDS} s in broker_transport_options, or leave "
            "ninja_transport out",
        )
    return Finding(OK, name, f"the goals of a killed worker come back after {seconds:g} s")


def _is_number(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool)


def _no_number(name: str) -> Finding:
    return Finding(
        FAULT,
        name,
        "visibility_timeout is no number: workers fail, or never get back what a killed one held",
        "set a number of seconds in broker_transport_options, or leave it out",
    )


def _remote_control(*, enabled: bool) -> Finding:
    if enabled:
        return Finding(OK, "remote_control", "remote control is on, so a lost Redis is noticed")
    return Finding(
        FAULT,
        "remote_control",
        "remote control is off: with Celery's own transport, a worker that is busy while Redis "
        "restarts can hang for good",
        "set worker_enable_remote_control = True, or leave ninja_transport out",
    )

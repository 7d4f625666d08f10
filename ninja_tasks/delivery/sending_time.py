"""When a message was sent, by what it says of itself.

Goals of :func:`ninja_tasks.enqueue_goal` say when they were enqueued. A bare ``send_task`` says
nothing by itself; these say it for the application, and each of them is believed unless it is ahead
of the clock or from before there were such messages:

=============================  ==================================================================
where                          who writes it
=============================  ==================================================================
``timestamp_in_ms`` header     RabbitMQ, where it is told to stamp what it receives
``timestamp`` property         the application: ``send_task(..., timestamp=int(time.time()))``
``timestamp`` header           the application: ``send_task(..., headers={"timestamp": ...})``
``sentry-task-enqueued-time``  Sentry's SDK in the application that sends
=============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..goals import MAX_AHEAD
from ..message import ENQUEUED_AT_HEADER

__all__ = ["enqueued_at", "sent_at"]

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
#: Seconds since 1970 are a smaller number than this, and milliseconds a greater one.
_MILLISECONDS_FROM = 1e11


def enqueued_at(headers: Any) -> Any:
    """Return what this package's producer has written into a message, ``None`` without it.

    Args:
        headers: of the message, where an instrumentation may have nested it.
    """
    return next(
        (one[ENQUEUED_AT_HEADER] for one in _levels(headers) if ENQUEUED_AT_HEADER in one), None
    )


def sent_at(headers: Any, properties: Any, now: datetime) -> datetime | None:
    """Return when a message was sent that no producer of this package has sent.

    Args:
        headers: of the message.
        properties: of the message.
        now: aware datetime.

    Returns:
        An aware datetime in UTC, ``None`` if the message does not say it.
    """
    levels = list(_levels(headers))
    stamps = [
        *(one.get("timestamp_in_ms") for one in levels),
        properties.get("timestamp") if isinstance(properties, Mapping) else None,
        *(one.get("timestamp") for one in levels),
        *(one.get("sentry-task-enqueued-time") for one in levels),
    ]
    moments = (_moment(stamp) for stamp in stamps if stamp is not None)
    return next((one for one in moments if one and _EARLIEST <= one <= now + MAX_AHEAD), None)


def _levels(headers: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(headers, Mapping):
        yield headers
        nested = headers.get("headers")
        if isinstance(nested, Mapping):
            yield nested


def _moment(stamp: Any) -> datetime | None:
    """Read a number of seconds or milliseconds since 1970, also as a text, or ISO 8601."""
    try:
        if isinstance(stamp, str) and not stamp.replace(".", "", 1).isdecimal():
            stamp = datetime.fromisoformat(stamp)
        if isinstance(stamp, datetime):
            return stamp.replace(tzinfo=stamp.tzinfo or UTC).astimezone(UTC)
        number = float(stamp)
        return datetime.fromtimestamp(number / (1000 if number >= _MILLISECONDS_FROM else 1), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None

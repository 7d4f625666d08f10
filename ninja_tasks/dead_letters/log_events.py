"""Log lines that would become Sentry events beside the limiter.

Sentry's SDK makes an event of each ERROR line, and of each exception of a task. A thousand bad
messages or an hour without Redis would be thousands of events. So of each place in the code that
writes such lines, one event passes, then none for five minutes; while lines keep coming the pause
doubles, up to a day. An event says how many were held back before it. Each process counts alone.

In a client of the application's own this holds for the lines of this package and of Celery's
consumer, whose line "Cannot connect" comes again and again while the broker is down, and for
exceptions of the task that delivers goals. All else is the application's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from ..message import TASK_NAME

__all__ = ["limit_log_events"]

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 300.0, 86_400.0
_PACKAGE = __name__.partition(".")[0]
_CONSUMER = "celery.worker.consumer"


@dataclass(slots=True)
class _Pause:
    """During which events of one origin are held back.

    Attributes:
        until: its end, on ``time.monotonic()``.
        seconds: its length.
        held_back: events that were.
    """

    until: float = 0.0
    seconds: float = _FIRST_PAUSE_SECONDS
    held_back: int = 0


class _LogEvents:
    """Decides which events pass. It is the SDK's event processor in all threads of the process."""

    def __init__(self) -> None:
        self.own_client: Any = None
        #: Without a lock, which a child of a fork could inherit locked: two threads may both pass.
        self._pauses: dict[Hashable, _Pause] = {}

    def __call__(self, event: Any, hint: dict[str, Any]) -> Any:
        """Return the event, or ``None`` to drop it."""
        is_own = sys.modules["sentry_sdk"].get_client() is self.own_client
        origin = _origin_of(event, hint, everything=is_own)
        if origin is None:
            return event
        pause, now = self._pauses.setdefault(origin, _Pause()), time.monotonic()
        if now < pause.until:
            pause.held_back += 1
            return None
        longer = min(2 * pause.seconds, _LONGEST_PAUSE_SECONDS)
        seconds = longer if pause.held_back else _FIRST_PAUSE_SECONDS
        self._pauses[origin] = _Pause(now + seconds, seconds)
        event.setdefault("extra", {})["held_back_before"] = pause.held_back
        return event


_EVENTS = _LogEvents()


def limit_log_events(own_client: Any = None) -> None:
    """Stand in the way of log lines to Sentry, if its SDK is loaded; safe to repeat.

    Args:
        own_client: the client that this package has made, in which all lines are limited.
    """
    scope = sys.modules.get("sentry_sdk.scope")
    if scope is None:
        return
    if own_client is not None:
        _EVENTS.own_client = own_client
    if _EVENTS not in scope.global_event_processors:
        scope.add_global_event_processor(_EVENTS)


def _origin_of(event: Any, hint: dict[str, Any], *, everything: bool) -> Hashable:
    """Return the place in the code that an event comes from, ``None`` if it is not limited."""
    record = hint.get("log_record")
    if record is not None:
        is_limited = everything or record.name.startswith((f"{_PACKAGE}.", _CONSUMER))
        return (record.pathname, record.lineno) if is_limited else None
    raised = hint.get("exc_info")
    if raised and event.get("transaction") == TASK_NAME:
        return getattr(raised[0], "__name__", "")
    return None

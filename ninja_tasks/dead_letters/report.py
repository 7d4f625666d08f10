"""Telling people of dead letters and of a long outage: the log of each, Sentry without a flood.

Reporting can neither break nor delay work. No event holds an IP, a customer id or the value of a
parameter, and none takes anything from the scope of the running task. Sentry's SDK is imported only
where a DSN is set; an application that initialised Sentry itself keeps its own client.
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any

import redis
from celery.signals import worker_process_shutdown

from ..delivery.gate import BreakerNews
from ..delivery.state import Keys
from ..errors import ConfigurationError
from ..goals import WIRE_NAMES, is_guid
from .limiter import LetterClass, ReportLimiter
from .log_events import limit_log_events
from .store import DeadLetter, DeadLetterStore

__all__ = ["Reporter", "initialise_sentry", "report_breaker"]

logger = logging.getLogger(__name__)

_FIELDS = tuple(WIRE_NAMES.values())
_SHUTDOWN_TIMEOUT_SECONDS = 5


def initialise_sentry(dsn: str) -> None:
    """Set Sentry up for a worker, unless the application has done so itself.

    What the SDK would wrap around each task and each HTTP request is off: it costs a third of a
    delivery, and it would carry goals to Sentry, or Sentry's headers to the API. Failures of the
    application's own tasks are told by the lines that Celery logs of them.

    Raises:
        ConfigurationError: if the DSN is malformed; the SDK itself would stay silent.
    """
    import sentry_sdk
    from sentry_sdk.integrations.argv import ArgvIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.integrations.modules import ModulesIntegration
    from sentry_sdk.integrations.stdlib import StdlibIntegration
    from sentry_sdk.utils import BadDsn, Dsn

    if sentry_sdk.is_initialized():
        return
    try:
        Dsn(dsn)
    except BadDsn:
        raise ConfigurationError(
            "ninja_sentry_dsn is no Sentry DSN: copy it from the project's settings in Sentry, "
            'it looks like "https://<key>@<host>/<project>"'
        ) from None
    sentry_sdk.init(
        dsn=dsn,
        auto_enabling_integrations=False,
        integrations=[LoggingIntegration(level=logging.WARNING, event_level=logging.ERROR)],
        disabled_integrations=[ArgvIntegration(), ModulesIntegration(), StdlibIntegration()],
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        trace_propagation_targets=[],
        max_breadcrumbs=20,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS,
    )
    limit_log_events(sentry_sdk.get_client())
    # A pool's process ends without what the SDK does when an interpreter ends.
    worker_process_shutdown.connect(_flush, weak=False)


class Reporter:
    """Tells Sentry of dead letters, of many at once where many have one cause; never raises.

    Args:
        client: of the state's Redis.
        keys: names of its keys.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._limiter = ReportLimiter(client, keys)

    def tell(self, letter: DeadLetter, store: DeadLetterStore) -> None:
        """Tell people of a stored dead letter: the log of each, Sentry of each class.

        Args:
            letter: the letter.
            store: where it is, and where the event's id is noted.
        """
        # Asked before the line is written, which could become an event too.
        is_listening = _is_listening()
        logger.warning(
            "goal %s became a dead letter: %s, %s, %d attempts",
            letter.delivery_id,
            letter.reason,
            letter.error_class,
            letter.attempts,
        )
        if not is_listening:
            return
        letters = _class_of(letter)
        count = self._limiter.count(letters, letter.delivery_id)
        if not count:
            return
        event_id = _send(_event(letters, count, letter.delivery_id, letter))
        if event_id is not None:
            try:
                store.note_event(letter, event_id)
            except redis.RedisError as error:
                logger.warning("an event's id was not noted: %s", type(error).__name__)

    def tell_overdue(self, *, everything: bool = False) -> None:
        """Tell Sentry of the letters that were only counted, once their window is over.

        Args:
            everything: of all of them, because this worker ends.

        Raises:
            redis.RedisError: if Redis does not answer.
        """
        if not _is_listening():
            return
        for untold in self._limiter.overdue(everything=everything):
            _send(_event(untold.letters, untold.count, untold.delivery_id))


def report_breaker(news: BreakerNews | None) -> None:
    """Tell people that the API has been silent for long, or that it answers again; never raises."""
    if news is None:
        return
    what = "answers again" if news.recovered else "does not answer"
    logger.warning("the API %s; the outage began %.0f s ago", what, news.seconds)
    if _is_listening():
        _send(
            {
                "event_id": uuid.uuid4().hex,
                "level": "info" if news.recovered else "error",
                "logger": "ninja_tasks.breaker",
                "message": f"Sales Ninja {what}",
                "fingerprint": ["ninja-breaker", what],
                "contexts": {"outage": {"seconds": news.seconds, "show": "ninja-tasks stats"}},
            }
        )


def _is_listening() -> bool:
    # Not imported here: where neither this package nor the application did, there is no client.
    # An application may set Sentry up when a child process starts.
    limit_log_events()
    sdk = sys.modules.get("sentry_sdk")
    return sdk is not None and bool(sdk.is_initialized())


def _send(event: dict[str, Any]) -> str | None:
    """Hand an event to Sentry's own queue and return its id; ``None`` if that failed."""
    try:
        # A scope of its own keeps the running task's arguments and breadcrumbs out of the event.
        sdk = sys.modules["sentry_sdk"]
        sdk.get_client().capture_event(event, scope=sdk.Scope())
    except Exception as error:  # noqa: BLE001 (reporting must not break work)
        logger.warning("Sentry was not told: %s", type(error).__name__)
        return None
    return str(event["event_id"])


def _class_of(letter: DeadLetter) -> LetterClass:
    status = "none" if letter.status is None else str(letter.status)
    return LetterClass(letter.reason, letter.error_class, status)


def _event(
    letters: LetterClass, count: int, delivery_id: str, letter: DeadLetter | None = None
) -> dict[str, Any]:
    """Return the event for so many letters, the last of which may be at hand."""
    event: dict[str, Any] = {
        "event_id": uuid.uuid4().hex,
        "level": "error",
        "logger": "ninja_tasks.dead_letters",
        "message": f"Goal not delivered: {letters.reason} "
        f"({letters.error_class}, status {letters.status})",
        "fingerprint": ["ninja-dead-letter", letters.reason, letters.error_class, letters.status],
        "tags": {
            "reason": letters.reason,
            "status_code": letters.status,
            "error_type": letters.error_class,
            "delivery_id": delivery_id,
        },
        "contexts": {
            "dead_letter": {
                "count": count,
                "suppressed": count - (letter is not None),
                "list": f"ninja-tasks dead list --reason {letters.reason}",
                "show": f"ninja-tasks dead show {delivery_id}",
                "replay": f"ninja-tasks dead replay --reason {letters.reason}",
            }
        },
    }
    if letter is not None:
        payload = letter.payload if isinstance(letter.payload, dict) else {}
        event["tags"] |= {"goal_id": _goal_id(payload), "attempts": str(letter.attempts)}
        event["contexts"]["dead_letter"] |= {
            "fields": [name for name in _FIELDS if name in payload],
            "unknown_fields": len(payload.keys() - set(_FIELDS)),
            "replays": letter.replays,
        }
    return event


def _goal_id(payload: dict[Any, Any]) -> str:
    """Return the goal id if it is one; anything else in its place could be personal data."""
    goal_id = payload.get("GoalId")
    return goal_id.lower() if is_guid(goal_id) else "invalid"


def _flush(**signal: Any) -> None:
    sys.modules["sentry_sdk"].flush(_SHUTDOWN_TIMEOUT_SECONDS)

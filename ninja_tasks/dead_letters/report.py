"""Telling people of a dead letter: one log line, and one Sentry event where Sentry is set up.

Reporting can neither break nor delay work. No event holds an IP, a customer id or the value of a
parameter, and none takes anything from the scope of the running task. Sentry's SDK is imported only
where a DSN is set; an application that initialised Sentry itself keeps its own client.
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any

from marshmallow import EXCLUDE

from ..errors import ConfigurationError
from ..schemas import GoalSchema
from .store import DeadLetter

__all__ = ["initialise_sentry", "new_event_id", "report"]

logger = logging.getLogger(__name__)

_FIELDS = tuple(str(field.data_key) for field in GoalSchema().fields.values())
_SHUTDOWN_TIMEOUT_SECONDS = 5


def initialise_sentry(dsn: str) -> None:
    """Set Sentry up for a worker, unless the application has done so itself.

    Tracing, breadcrumbs of HTTP requests, local variables and trace headers are off: each of them
    would carry goals to Sentry, or Sentry's headers to the API.

    Raises:
        ConfigurationError: if the DSN is malformed; the SDK itself would stay silent.
    """
    import sentry_sdk
    from sentry_sdk.integrations.argv import ArgvIntegration
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.integrations.modules import ModulesIntegration
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
        integrations=[
            CeleryIntegration(propagate_traces=False),
            LoggingIntegration(level=logging.WARNING, event_level=logging.ERROR),
        ],
        disabled_integrations=[ArgvIntegration(), ModulesIntegration()],
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        trace_propagation_targets=[],
        before_breadcrumb=_without_http,
        max_breadcrumbs=20,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_SECONDS,
    )


def new_event_id() -> str | None:
    """Return an id for the next event, ``None`` where Sentry is not set up in this process."""
    # Not imported here: where neither this package nor the application did, there is no client.
    sdk = sys.modules.get("sentry_sdk")
    return uuid.uuid4().hex if sdk is not None and sdk.is_initialized() else None


def report(letter: DeadLetter) -> None:
    """Tell people of a stored dead letter; never raises."""
    logger.warning(
        "goal %s became a dead letter: %s, %s, %d attempts",
        letter.delivery_id,
        letter.reason,
        letter.error_class,
        letter.attempts,
    )
    if letter.sentry_event_id is None:
        return
    try:
        # A scope of its own keeps the running task's arguments and breadcrumbs out of the event.
        sdk = sys.modules["sentry_sdk"]
        sdk.get_client().capture_event(_event(letter), scope=sdk.Scope())
    except Exception as error:  # noqa: BLE001 (reporting must not break work)
        logger.warning(
            "Sentry was not told of dead letter %s: %s", letter.delivery_id, type(error).__name__
        )


def _event(letter: DeadLetter) -> dict[str, Any]:
    status = "none" if letter.status is None else str(letter.status)
    payload = letter.payload if isinstance(letter.payload, dict) else {}
    return {
        "event_id": letter.sentry_event_id,
        "level": "error",
        "logger": "ninja_tasks.dead_letters",
        "message": f"Goal not delivered: {letter.reason} ({letter.error_class}, status {status})",
        "fingerprint": ["ninja-dead-letter", letter.reason, letter.error_class, status],
        "tags": {
            "reason": letter.reason,
            "status_code": status,
            "error_type": letter.error_class,
            "goal_id": _goal_id(payload),
            "attempts": str(letter.attempts),
            "delivery_id": letter.delivery_id,
        },
        "contexts": {
            "dead_letter": {
                "fields": [name for name in _FIELDS if name in payload],
                "unknown_fields": len(payload.keys() - set(_FIELDS)),
                "replays": letter.replays,
                "list": f"ninja-tasks dead list --reason {letter.reason}",
                "show": f"ninja-tasks dead show {letter.delivery_id}",
                "replay": f"ninja-tasks dead replay {letter.delivery_id}",
            }
        },
    }


def _goal_id(payload: dict[Any, Any]) -> str:
    """Return the goal id if it is one; anything else in its place could be personal data."""
    faults = GoalSchema(only=["goal_id"], unknown=EXCLUDE).validate(payload)
    return "invalid" if faults else str(payload["GoalId"]).lower()


def _without_http(breadcrumb: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any] | None:
    return None if breadcrumb.get("category") == "httplib" else breadcrumb

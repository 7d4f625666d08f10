"""Who hears of dead letters, who takes goals, and who sees that workers are well."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery

from ..config import Settings
from ..message import QUEUE_NAME
from .finding import FAULT, OK, WARNING, Finding

__all__ = ["judge_liveness", "judge_sentry", "look_for_workers"]

_ANSWER_SECONDS = 1.0


def judge_sentry(settings: Settings) -> Finding:
    """Return what is to be said of Sentry's DSN; nothing is sent."""
    sdk = sys.modules.get("sentry_sdk")
    if sdk is not None and sdk.is_initialized():
        return Finding(OK, "sentry", "Sentry hears of dead letters")
    if settings.sentry_dsn is None:
        return Finding(
            WARNING,
            "sentry",
            "there is no Sentry DSN: dead letters are stored and logged, but nobody is told, "
            "unless the application sets up Sentry in its workers",
            "set SENTRY_DSN or NINJA_SENTRY_DSN",
        )
    from sentry_sdk.utils import BadDsn, Dsn

    try:
        Dsn(settings.sentry_dsn)
    except (BadDsn, ValueError):
        return Finding(
            FAULT,
            "sentry",
            "the Sentry DSN is malformed: workers go on without Sentry, and nobody is told of dead "
            "letters",
            'copy it from the project\'s settings in Sentry: "https://<key>@<host>/<project>"',
        )
    return Finding(OK, "sentry", "the Sentry DSN is well formed; no event was sent to it")


def judge_liveness(settings: Settings) -> list[Finding]:
    """Return what is to be said of the file that shows that a worker is well, if there is one."""
    if settings.liveness_file is None:
        return []
    folder = Path(settings.liveness_file).parent
    if folder.is_dir() and os.access(folder, os.W_OK):
        return [Finding(OK, "liveness", "workers of this machine can touch the liveness file")]
    return [
        Finding(
            WARNING,
            "liveness",
            "the folder of the liveness file is missing or cannot be written to: workers of this "
            "machine seem to be ill, and a probe ends them",
            "make the folder, or correct ninja_liveness_file",
        )
    ]


def look_for_workers(app: Celery) -> Finding:
    """Ask who consumes the queue; takes a second."""
    try:
        replies = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
    except Exception as error:  # noqa: BLE001 (each transport has exceptions of its own)
        return _nobody(f"the workers could not be asked ({type(error).__name__})")
    consuming = sum(_takes_goals(queues) for queues in replies.values())
    if consuming:
        return Finding(OK, "workers", f"workers that consume {QUEUE_NAME}: {consuming}")
    if replies:
        return _nobody(f"workers answered ({len(replies)}), but none consumes {QUEUE_NAME}")
    return _nobody("no worker answered within a second")


def _takes_goals(queues: Sequence[Mapping[str, Any]]) -> bool:
    return any(queue["name"] == QUEUE_NAME for queue in queues)


def _nobody(message: str) -> Finding:
    return Finding(
        WARNING,
        "workers",
        f"{message}: goals wait until one takes them",
        "start one: celery -A ninja_tasks worker; look at ninja-tasks stats; a worker without "
        "remote control does not answer",
    )

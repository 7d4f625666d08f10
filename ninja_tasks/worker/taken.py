"""A message that was taken from a list in Redis, as kombu and Celery know messages.

Whatever lies on a list can be taken. What is no message of Celery's becomes a :class:`Message`
whose ``fault`` says why, and whose ``raw`` has its bytes.
"""

from __future__ import annotations

import base64
from time import monotonic
from typing import Any

from kombu.message import Message as KombuMessage
from kombu.utils.json import loads

from .held import TakenMessage

__all__ = ["Message"]


class Message(KombuMessage):  # type: ignore[misc]
    """A message of the goal queue.

    Args:
        taken: as it was claimed.
        queue: the queue's name.
        source: what it is acknowledged to.
        accept: content types that may be decoded.

    Attributes:
        raw: its bytes as they lay on the list.
        fault: why it is none of Celery's, ``None`` if it may be one. Such a one has no headers, and
            its body is its bytes.
        claimed_at: when it was taken, by the monotonic clock.
    """

    errors: list[Any]

    def __init__(self, taken: TakenMessage, queue: str, source: Any, accept: Any) -> None:
        self.raw = taken.raw
        self.fault: str | None = None
        self.claimed_at = monotonic()
        try:
            parts = _parts(taken, queue)
            super().__init__(channel=source, accept=accept, postencode="utf-8", **parts)
            if self.errors:
                raise self.errors[0][1]
        except Exception as error:  # noqa: BLE001 (it comes from outside, and must not end the worker)
            self.errors = []
            self.fault = f"is no message of Celery's ({type(error).__name__})"
            super().__init__(channel=source, accept=accept, **_stand_in(taken, queue))


def _parts(taken: TakenMessage, queue: str) -> dict[str, Any]:
    document = loads(taken.raw.decode())
    properties = {**document["properties"], "delivery_tag": taken.tag}
    body = document.get("body")
    if body and properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return {
        "body": body,
        "delivery_tag": taken.tag,
        "content_type": document.get("content-type"),
        "content_encoding": document.get("content-encoding"),
        "headers": document.get("headers"),
        "properties": properties,
        # What a message says of itself may be wrong; where it lay is known.
        "delivery_info": {**properties.get("delivery_info", {}), "queue": queue},
    }


def _stand_in(taken: TakenMessage, queue: str) -> dict[str, Any]:
    return {
        "body": taken.raw,
        "delivery_tag": taken.tag,
        "content_type": "application/octet-stream",
        "content_encoding": "binary",
        "headers": {},
        "properties": {"delivery_tag": taken.tag},
        "delivery_info": {"exchange": "", "routing_key": queue, "queue": queue},
    }

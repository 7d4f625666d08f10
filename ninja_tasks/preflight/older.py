"""What version 0.1.0 left in the broker's Redis, which held messages under other keys."""

from __future__ import annotations

from typing import Any

import redis

from ..message import OLDER_HELD_KEYS
from .finding import WARNING, Finding

__all__ = ["look_for_older"]


def look_for_older(client: Any, prefix: str) -> list[Finding]:
    """Return what is to be said of messages that workers of version 0.1.0 hold, or held.

    Args:
        client: of the broker's Redis.
        prefix: of all its keys.

    Raises:
        redis.ConnectionError: if Redis does not answer.
    """
    try:
        count = client.hlen(prefix + OLDER_HELD_KEYS[0])
    except redis.ResponseError:
        # It may not be asked, or the key has another type: it is not ours then.
        return []
    if not count:
        return []
    return [
        Finding(
            WARNING,
            "broker.older",
            f"{count} messages are held by workers of version 0.1.0, or were when they ended",
            "end those workers; a worker of this version puts back what is left when its lease has "
            "ended (visibility_timeout, 7 s where it is not set)",
        )
    ]

"""A Redis in cluster mode: where goals can live in one, and what to do where they cannot."""

from __future__ import annotations

import re
from typing import Any

from ..delivery.state import Keys
from ..redis_errors import WrongServerError, reason_of
from .finding import FAULT, WARNING, Finding

__all__ = ["judge_cluster_broker", "judge_cluster_state"]

#: What stands between the first pair of braces decides which node has a key.
_HASH_TAG = re.compile(r"^[^{]*\{[^}]+\}")


def judge_cluster_broker(title: str) -> Finding:
    """Return what is to be said of a broker that is a node of a Redis Cluster."""
    return Finding(
        FAULT,
        "broker.cluster",
        f"{title} is a Redis Cluster, which Celery cannot use as a broker: goals are neither "
        "enqueued nor delivered",
        "use a Redis or Valkey without cluster mode, or RabbitMQ, as the broker",
    )


def judge_cluster_state(title: str, client: Any, key_prefix: str) -> Finding:
    """Return what is to be said of a Redis for state that is a node of a Redis Cluster.

    Args:
        title: what the message calls it.
        client: of that node.
        key_prefix: the setting ``key_prefix``.
    """
    name = "state.cluster"
    if not _HASH_TAG.match(key_prefix):
        return Finding(
            FAULT,
            name,
            f"{title} is a Redis Cluster, and the keys of this package lie on several of its "
            "nodes: no goal is sent",
            'set NINJA_KEY_PREFIX or ninja_key_prefix to "{ninja}:", and NINJA_REDIS_URL to the '
            "node that has these keys; or use a Redis without cluster mode",
        )
    try:
        client.exists(Keys(key_prefix).gate)
    except WrongServerError as error:
        return Finding(
            FAULT,
            name,
            f"another node of the Redis Cluster has the keys of this package, not {title} "
            f"({reason_of(error)}): no goal is sent",
            "set NINJA_REDIS_URL or ninja_redis_url to that node",
        )
    return Finding(
        WARNING,
        name,
        f"{title} is a node of a Redis Cluster, and workers do not look for another one: after a "
        "failover no goal is sent until the address leads to the new primary",
        "use an address that follows the primary, or a Redis without cluster mode",
    )

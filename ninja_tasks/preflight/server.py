"""A Redis or Valkey: what it says of itself, and what that means for goals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from .finding import FAULT, OK, WARNING, Finding

__all__ = ["RedisFacts", "facts_of", "judge_server"]

_OLDEST_VERSION = (6, 2)
_WARN_SKEW_SECONDS, _FAULT_SKEW_SECONDS = 2.0, 60.0
#: What one worker of 32 threads may take, for state and broker together.
_FEWEST_FREE_CLIENTS = 50


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a server says of itself; what it does not say is ``None``.

    Attributes:
        run_id: the same at two addresses of one server.
        version: of Redis, or the one that a Valkey is compatible with.
        maxmemory: in bytes, 0 for no bound.
        policy: its ``maxmemory-policy``.
        appends: whether it writes an append-only file.
        ahead_seconds: by how much its clock is ahead of this machine's.
        is_cluster: whether it is a node of a Redis Cluster.
        clients: how many connections it has.
        most_clients: how many it takes.
    """

    run_id: str | None = None
    version: str | None = None
    maxmemory: int | None = None
    policy: str | None = None
    appends: bool | None = None
    ahead_seconds: float = 0.0
    is_cluster: bool = False
    clients: int | None = None
    most_clients: int | None = None


def facts_of(client: Any) -> RedisFacts:
    """Ask a server.

    Args:
        client: one that decodes answers, or one that does not.

    Raises:
        redis.RedisError: if it does not answer.
    """
    before = time.time()
    seconds, microseconds = client.time()
    ahead_seconds = seconds + microseconds / 1e6 - (before + time.time()) / 2
    info = _answer(client.info)
    # A managed service may forbid either of the two.
    config = {} if info.keys() >= {"maxmemory_policy", "aof_enabled"} else _configured(client)
    maxmemory = info.get("maxmemory", config.get("maxmemory"))
    appends = info.get("aof_enabled", config.get("appendonly"))
    version = info.get("redis_version")
    return RedisFacts(
        run_id=info.get("run_id"),
        version=None if version is None else str(version),
        maxmemory=None if maxmemory is None else int(maxmemory),
        policy=info.get("maxmemory_policy", config.get("maxmemory-policy")),
        appends=None if appends is None else str(appends) in ("1", "yes"),
        ahead_seconds=ahead_seconds,
        is_cluster=str(info.get("cluster_enabled")) == "1" or info.get("redis_mode") == "cluster",
        clients=_number(info.get("connected_clients")),
        most_clients=_number(info.get("maxclients")),
    )


def judge_server(name: str, title: str, facts: RedisFacts) -> list[Finding]:
    """Return what is to be said of a server.

    Args:
        name: first part of the names of the findings.
        title: what the messages call it.
        facts: what it said.
    """
    return [
        _version(f"{name}.version", title, facts),
        _eviction(f"{name}.eviction", title, facts),
        _persistence(f"{name}.persistence", title, facts),
        _clock(f"{name}.clock", title, facts),
        *_connections(f"{name}.connections", title, facts),
    ]


def _number(answer: Any) -> int | None:
    return None if answer is None else int(answer)


def _answer(ask: Callable[[], Any]) -> dict[Any, Any]:
    try:
        return dict(ask())
    except redis.ResponseError:
        return {}


def _configured(client: Any) -> dict[str, str]:
    told: dict[str, str] = {}
    for option in ("maxmemory", "maxmemory-policy", "appendonly"):
        for name, value in _answer(partial(client.config_get, option)).items():
            told[_text(name)] = _text(value)
    return told


def _text(answer: str | bytes) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer


def _version(name: str, title: str, facts: RedisFacts) -> Finding:
    found = re.match(r"([0-9]+)\.([0-9]+)", facts.version or "")
    if found is None:
        return _unknown(name, title, "its version", "it must be Redis 6.2 or later, or Valkey")
    if (int(found[1]), int(found[2])) < _OLDEST_VERSION:
        return Finding(
            FAULT,
            name,
            f"{title} is version {facts.version}, which lacks BLMOVE: workers cannot take goals",
            "use Redis 6.2 or later, or Valkey",
        )
    return Finding(OK, name, f"{title} is compatible with Redis {facts.version}")


def _eviction(name: str, title: str, facts: RedisFacts) -> Finding:
    remedy = "set maxmemory-policy noeviction in its configuration"
    if facts.policy is None:
        return _unknown(name, title, "what it evicts", "maxmemory-policy must be noeviction")
    if facts.policy == "noeviction":
        return Finding(OK, name, f"{title} evicts nothing")
    if facts.maxmemory == 0:
        return Finding(
            WARNING,
            name,
            f"{title} has maxmemory-policy {facts.policy}: as soon as somebody sets maxmemory, "
            "goals and dead letters can vanish",
            remedy,
        )
    return Finding(
        FAULT,
        name,
        f"{title} has maxmemory-policy {facts.policy}: when its memory is full, goals and dead "
        "letters vanish without a trace",
        remedy,
    )


def _persistence(name: str, title: str, facts: RedisFacts) -> Finding:
    if facts.appends is None:
        return _unknown(name, title, "whether data survive a restart", "appendonly must be yes")
    if facts.appends:
        return Finding(OK, name, f"{title} writes an append-only file")
    # No fault: a replica or a managed service may keep the data, and that cannot be seen from here.
    return Finding(
        WARNING,
        name,
        f"{title} writes no append-only file: a crash or restart of it loses goals and dead "
        "letters, at least those since its last snapshot",
        "set appendonly yes in its configuration, unless its operator keeps the data otherwise",
    )


def _clock(name: str, title: str, facts: RedisFacts) -> Finding:
    skew = abs(facts.ahead_seconds)
    if skew <= _WARN_SKEW_SECONDS:
        return Finding(OK, name, f"{title} and this machine agree on the time")
    where = "ahead of" if facts.ahead_seconds > 0 else "behind"
    return Finding(
        FAULT if skew > _FAULT_SKEW_SECONDS else WARNING,
        name,
        f"the clock of {title} is {skew:.0f} s {where} that of this machine: one of the two stamps "
        "goals with a wrong time, and they are retried or expire too early or too late",
        "set both clocks by NTP",
    )


def _connections(name: str, title: str, facts: RedisFacts) -> Iterator[Finding]:
    """Yield whether there are enough connections for another worker, where that is known."""
    if facts.clients is None or facts.most_clients is None:
        return
    free = facts.most_clients - facts.clients
    if free >= _FEWEST_FREE_CLIENTS:
        yield Finding(OK, name, f"{title} takes {free} connections more")
        return
    yield Finding(
        WARNING,
        name,
        f"{title} takes {facts.most_clients} connections and has {facts.clients}: a worker that "
        "gets none waits, and so do the application's own tasks and producers",
        f"raise maxclients in its configuration: a worker takes up to {_FEWEST_FREE_CLIENTS}",
    )


def _unknown(name: str, title: str, what: str, demand: str) -> Finding:
    return Finding(
        WARNING,
        name,
        f"{title} does not say {what}: INFO or CONFIG GET is forbidden there",
        f"allow INFO, or ask its operator: {demand}",
    )

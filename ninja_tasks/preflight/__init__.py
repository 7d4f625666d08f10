"""What is wrong with a set-up, found before goals depend on it: servers, settings, API, workers.

It only looks: no goal and no HTTP request is sent, nothing is stored, no queue is made. What cannot
be seen from here is said to be unknown, and no text holds a password.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import redis
from celery import Celery

from ..config import Settings, settings_of
from ..delivery.connection import longest_exchange_seconds
from ..delivery.gate import Gate
from ..delivery.state import connect
from ..message import goal_queue
from ..tested import is_kombu_tested
from .api import look_at_api
from .application import judge_application
from .finding import FAULT, OK, WARNING, Finding, without_secrets
from .older import look_for_older
from .people import judge_liveness, judge_sentry, look_for_workers
from .rabbitmq import CONFIRMATIONS, judge_confirmations, look_at_queue
from .redis_cluster import judge_cluster_broker, judge_cluster_state
from .server import RedisFacts, facts_of, judge_server
from .settings import look_for_unread_settings
from .transport import judge_transport
from .unusable import unusable

__all__ = ["FAULT", "OK", "WARNING", "Finding", "preflight", "report_at_start"]

logger = logging.getLogger(__name__)

_BROKER_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_PATIENCE_AT_START_SECONDS = 4.0

#: Options of kombu's transports, by kind of broker: none may wait for ever.
_BOUNDS = {
    "redis": {"socket_timeout": _BROKER_SECONDS, "socket_connect_timeout": _BROKER_SECONDS},
    "amqp": {"read_timeout": _BROKER_SECONDS, "write_timeout": _BROKER_SECONDS},
}


_PAUSED = Finding(
    WARNING,
    "delivery",
    "delivery is paused: workers leave goals in the queue",
    "end the pause with: ninja-tasks resume",
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at one server returned.

    Attributes:
        findings: the first says whether it could be used.
        facts: what it said, if it is a Redis.
    """

    findings: list[Finding]
    facts: RedisFacts | None = None


def preflight(
    app: Celery, *, ask_workers: bool = True, patience_seconds: float = _PATIENCE_SECONDS
) -> list[Finding]:
    """Look at all that goals depend on, and return what was found, what is well included.

    Args:
        app: the application.
        ask_workers: whether to ask who consumes the queue, which takes a second.
        patience_seconds: how long to wait for servers; one that has not answered by then is a
            warning.

    Raises:
        ConfigurationError: if a setting cannot be used.
    """
    settings = settings_of(app)
    broker_kind = _kind_of_broker(app)
    seen = _side_by_side(
        {
            "broker": partial(_look_at_broker, app, broker_kind),
            "state": partial(_look_at_state, settings),
            "api": lambda: _Seen([look_at_api(settings)]),
        },
        patience_seconds,
    )
    broker, state = seen["broker"], seen["state"]
    workers = ask_workers and broker.findings[0].level == OK
    return [
        *broker.findings,
        *state.findings,
        *_judge_servers(app, settings, broker.facts, state.facts),
        *judge_transport(
            settings.transport,
            broker_kind,
            app.conf.broker_transport_options or {},
            request_seconds=longest_exchange_seconds(settings),
            remote_control=app.conf.worker_enable_remote_control,
            kombu_is_tested=is_kombu_tested(),
        ),
        *seen["api"].findings,
        *judge_application(app, broker_kind),
        *([judge_confirmations(app)] if broker_kind == "amqp" else []),
        *look_for_unread_settings(app, os.environ),
        judge_sentry(settings),
        *judge_liveness(settings),
        *([look_for_workers(app)] if workers else []),
    ]


def report_at_start(app: Celery) -> None:
    """Write what is wrong to the log of a worker that starts, one line each.

    It takes a few seconds at the most, whatever does not answer.

    Args:
        app: the worker's application.

    Raises:
        SystemExit: with the exit code 1, if the setting ``strict`` is on and there is a fault.
    """
    try:
        strict = settings_of(app).strict
        findings = preflight(app, ask_workers=False, patience_seconds=_PATIENCE_AT_START_SECONDS)
    except Exception as error:  # noqa: BLE001 (looking must not keep a worker from its work)
        logger.warning("the set-up was not checked: %s", type(error).__name__)
        return
    for one in findings:
        # What is sent from elsewhere is no reason against this worker.
        if one.level != OK and one.name != CONFIRMATIONS:
            logger.warning("%s (%s): %s; %s", one.level, one.name, one.message, one.remedy)
    faults = [one.name for one in findings if one.level == FAULT and one.name != CONFIRMATIONS]
    if strict and faults:
        logger.error("not starting, because ninja_strict is on: mend %s", ", ".join(faults))
        raise SystemExit(1)


def _kind_of_broker(app: Celery) -> str | None:
    try:
        kind: str = app.connection_for_read().get_transport_cls().driver_type
    except Exception:  # noqa: BLE001 (an address is wrong in many ways; connecting says how)
        return None
    return kind


def _look_at_broker(app: Celery, kind: str | None) -> _Seen:
    title = f"the broker {_broker_url(app)}"
    options = {"max_retries": 0, **_BOUNDS.get(str(kind), {})}
    facts, of_queue = None, []
    try:
        with app.connection_for_read(
            connect_timeout=_BROKER_SECONDS, transport_options=options
        ) as connection:
            channel = connection.default_channel
            if kind == "redis":
                facts = facts_of(channel.client)
                of_queue += [judge_cluster_broker(title)] if facts.is_cluster else []
                of_queue += look_for_older(channel.client, channel.global_keyprefix)
            elif kind == "amqp":
                of_queue = list(look_at_queue(connection, goal_queue(app)))
    except Exception as error:  # noqa: BLE001 (each transport has exceptions of its own)
        then = "goals are neither enqueued nor delivered"
        where = "CELERY_BROKER_URL or broker_url"
        return _Seen([unusable("broker", title, error, then, where)])
    return _Seen([Finding(OK, "broker", f"{title} answers"), *of_queue], facts)


def _look_at_state(settings: Settings) -> _Seen:
    title = f"the Redis for state {without_secrets(settings.redis_url)}"
    try:
        with connect(settings, retries=0) as client:
            facts = facts_of(client)
            of_cluster = (
                [judge_cluster_state(title, client, settings.key_prefix)]
                if facts.is_cluster
                else []
            )
            is_paused = not facts.is_cluster and Gate(settings, client).is_paused()
    except redis.RedisError as error:
        then, where = "no goal is sent without it", "NINJA_REDIS_URL or ninja_redis_url"
        return _Seen([unusable("state", title, error, then, where)])
    return _Seen(
        [Finding(OK, "state", f"{title} answers"), *of_cluster, *([_PAUSED] if is_paused else [])],
        facts,
    )


def _judge_servers(
    app: Celery, settings: Settings, broker: RedisFacts | None, state: RedisFacts | None
) -> Iterator[Finding]:
    """Judge the broker and the Redis for state, and once if they are one server."""
    are_one = bool(broker and state and broker.run_id and broker.run_id == state.run_id)
    if broker:
        use = "broker and state" if are_one else "broker"
        yield from judge_server("broker", f"{_broker_url(app)} ({use})", broker)
    if state and not are_one:
        yield from judge_server("state", f"{without_secrets(settings.redis_url)} (state)", state)


def _broker_url(app: Celery) -> str:
    addresses = app.conf.broker_read_url or "amqp://localhost"
    return without_secrets(addresses if isinstance(addresses, str) else ";".join(addresses))


def _side_by_side(
    looks: Mapping[str, Callable[[], _Seen]], patience_seconds: float
) -> dict[str, _Seen]:
    """Look at several servers at once, and go on without those that take too long."""
    seen: dict[str, _Seen] = {}

    def look(name: str) -> None:
        try:
            seen[name] = looks[name]()
        except Exception as error:  # noqa: BLE001 (the other looks count all the same)
            seen[name] = _unseen(name, f"could not be looked at ({type(error).__name__})")

    # Daemons: a silent name server must not keep the process alive.
    threads = [threading.Thread(target=look, args=(name,), daemon=True) for name in looks]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience_seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"has not answered within {patience_seconds:g} s"
    return {name: seen.get(name) or _unseen(name, late) for name in looks}


def _unseen(name: str, what: str) -> _Seen:
    remedy = "look at the network and the name server, then run: ninja-tasks check"
    return _Seen([Finding(WARNING, name, f"{name} {what}, so nothing is known of it", remedy)])

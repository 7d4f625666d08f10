"""RabbitMQ's queue: what is declared. Only the management API would show what policies add."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery import Celery
from kombu import Queue

from .finding import FAULT, OK, WARNING, Finding

__all__ = ["CONFIRMATIONS", "judge_confirmations", "judge_undelivered", "look_at_queue"]

#: Name of the finding about what the application publishes by itself.
CONFIRMATIONS = "broker.confirmations"

#: From this version on, a quorum queue has a delivery limit where none is set.
_LIMITS_BY_DEFAULT, _DEFAULT_LIMIT = 4, 20
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406


def look_at_queue(connection: Any, queue: Queue) -> Iterator[Finding]:
    """Look at the queue and at what becomes of messages that RabbitMQ gives up.

    Args:
        connection: to the broker.
        queue: as the application declares it.
    """
    yield _queue(connection, queue)
    arguments = queue.queue_arguments or {}
    exchange = arguments.get("x-dead-letter-exchange")
    if exchange is None:
        version = str(connection.connection.server_properties.get("version", ""))
        yield judge_undelivered(arguments, version)
    else:
        yield _dead_letter_exchange(connection, exchange)


def judge_confirmations(app: Celery) -> Finding:
    """Return what is to be said of messages that the application publishes by itself.

    What this package publishes is confirmed, whatever the application's options are.
    """
    if app.main == "ninja_tasks":
        return Finding(
            OK,
            CONFIRMATIONS,
            "RabbitMQ confirms what this package publishes; whether it confirms what other "
            "applications send by send_task cannot be seen from here",
        )
    if (app.conf.broker_transport_options or {}).get("confirm_publish"):
        return Finding(OK, CONFIRMATIONS, "RabbitMQ confirms what this application publishes")
    return Finding(
        FAULT,
        CONFIRMATIONS,
        "RabbitMQ does not confirm what this application publishes by itself, so goals that it "
        "sends by a bare send_task vanish without an error when a node dies; those of "
        "enqueue_goal and enqueue_goals are confirmed",
        'set broker_transport_options = {"confirm_publish": True}',
    )


def judge_undelivered(arguments: Mapping[str, Any], version: str) -> Finding:
    """Return what is to be said of a queue that is declared without a dead-letter exchange.

    Args:
        arguments: with which the application declares it.
        version: of RabbitMQ.
    """
    limit = arguments.get("x-delivery-limit")
    if limit is None and _major(version) >= _LIMITS_BY_DEFAULT:
        limit = _DEFAULT_LIMIT
    drops = arguments.get("x-queue-type") == "quorum" and limit is not None and limit >= 0
    what = (
        f"a goal that came back from workers more than {limit} times is dropped"
        if drops
        else "if a policy or the virtual host sets a limit, RabbitMQ drops goals beyond it"
    )
    return Finding(
        FAULT if drops else WARNING,
        "queue.dead_letters",
        f"the queue is declared without a dead-letter exchange: {what} (policies cannot be seen "
        "from here)",
        "set x-dead-letter-exchange in task_queues or by a policy, and bind a queue to it",
    )


def _queue(connection: Any, queue: Queue) -> Finding:
    refusal = _refusal(connection, lambda channel: queue(channel).queue_declare(passive=True))
    if refusal == _NOT_FOUND:
        message = f"the queue {queue.name} is not there yet; who uses it first makes it"
        return Finding(OK, "queue", message)
    # A queue that is there is not changed by being declared, but differences are refused.
    refusal = refusal or _refusal(connection, lambda channel: queue(channel).queue_declare())
    if refusal == _PRECONDITION_FAILED:
        return Finding(
            FAULT,
            "queue",
            f"the queue {queue.name} has other arguments than this application declares: workers "
            "and producers are refused",
            "declare it in task_queues with the arguments that it has, or delete it once it is "
            "empty",
        )
    if refusal:
        return Finding(
            WARNING,
            "queue",
            f"RabbitMQ does not let this user look at the queue {queue.name} (code {refusal}): "
            "workers and producers may be refused too",
            "give the user the permissions to configure, write and read it",
        )
    return Finding(OK, "queue", f"the queue {queue.name} is as this application declares it")


def _dead_letter_exchange(connection: Any, exchange: str) -> Finding:
    name = "queue.dead_letters"
    refusal = exchange and _refusal(
        connection, lambda channel: channel.exchange_declare(exchange, "direct", passive=True)
    )
    if refusal == _NOT_FOUND:
        return Finding(
            FAULT,
            name,
            f"the dead-letter exchange {exchange} does not exist: what RabbitMQ gives up is lost",
            "make the exchange, and bind a queue to it",
        )
    return Finding(
        OK,
        name,
        "what RabbitMQ gives up goes to a dead-letter exchange; whether a queue is bound to it "
        "cannot be seen from here",
    )


def _major(version: str) -> int:
    digits = re.match("[0-9]+", version)
    return int(digits[0]) if digits else 0


def _refusal(connection: Any, declare: Callable[[Any], Any]) -> int | None:
    """Try a declaration in a channel of its own, which a refusal closes; return its code."""
    try:
        with connection.channel() as channel:
            declare(channel)
    except connection.channel_errors as error:
        return int(getattr(error, "reply_code", 0) or _PRECONDITION_FAILED)
    return None

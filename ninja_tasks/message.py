"""The message: what a goal looks like on the queue, and how it gets there.

A plain Celery task message: task ``ninja_tasks.reach_goal``, queue ``ninja_tasks``, one positional
argument, the JSON body of the API. Everything else travels in message headers:

====================  ==================================================================
``ninja_enqueued_at``  when the goal was enqueued, ISO 8601
``ninja_on_unknown``   the caller's policy, absent for the worker's setting
``ninja_attempts``     attempts made so far, written by workers between two attempts
``ninja_replays``      how often a person replayed it from a dead letter
``ninja_not_before``   set in the worker only: the ETA of a message that came with one
``ninja_expires_at``   the expiry of a message that came with one, written by workers
``ninja_undated``      set in the worker only: the message did not say when it was sent
====================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from celery import Celery
from celery.app.routes import Router
from kombu import Exchange, Producer, Queue

from .broker import publish_confirmed

__all__ = [
    "ATTEMPTS_HEADER",
    "ENQUEUED_AT_HEADER",
    "EXPIRES_AT_HEADER",
    "HEADERS",
    "HEADER_PREFIX",
    "NOT_BEFORE_HEADER",
    "OLDER_HELD_KEYS",
    "ON_UNKNOWN_HEADER",
    "QUEUE_NAME",
    "REDACTED_REPRESENTATION",
    "REPLAYS_HEADER",
    "TASK_NAME",
    "UNDATED_HEADER",
    "Message",
    "batches",
    "goal_queue",
    "publish",
    "publish_batch",
]

T = TypeVar("T")

TASK_NAME = "ninja_tasks.reach_goal"
QUEUE_NAME = "ninja_tasks"
#: Where workers of version 0.1.0 held messages of any queue in Redis, and their leases.
OLDER_HELD_KEYS = ("ninja_tasks.unacked", "ninja_tasks.unacked_index")

ENQUEUED_AT_HEADER = "ninja_enqueued_at"
ON_UNKNOWN_HEADER = "ninja_on_unknown"
ATTEMPTS_HEADER = "ninja_attempts"
REPLAYS_HEADER = "ninja_replays"
NOT_BEFORE_HEADER = "ninja_not_before"
EXPIRES_AT_HEADER = "ninja_expires_at"

UNDATED_HEADER = "ninja_undated"

#: With this begin the names of all headers of this package, those of later versions included.
HEADER_PREFIX = "ninja_"
#: The headers that this version knows.
HEADERS = (
    ENQUEUED_AT_HEADER,
    ON_UNKNOWN_HEADER,
    ATTEMPTS_HEADER,
    REPLAYS_HEADER,
    NOT_BEFORE_HEADER,
    EXPIRES_AT_HEADER,
    UNDATED_HEADER,
)

#: What Celery's messages, logs and Flower show instead of a goal, which is personal data.
REDACTED_REPRESENTATION = {"argsrepr": "<goal>", "kwargsrepr": "{}"}

#: A goal goes to the goal queue; an application may forbid queues that its routes do not know.
_NO_ROUTES = Router()
_QUEUE = Queue(QUEUE_NAME, Exchange(QUEUE_NAME), routing_key=QUEUE_NAME)


@dataclass(frozen=True, slots=True)
class Message:
    """A goal, ready to be published.

    Attributes:
        delivery_id: the Celery task id.
        body: the JSON body of the API.
        headers: the headers of this package.
        retries: how often Celery has retried it.
        priority: ``None`` for the queue's default.
    """

    delivery_id: str
    body: Any = field(repr=False)
    headers: Mapping[str, Any]
    retries: int = 0
    priority: int | None = None


def goal_queue(app: Celery) -> Queue:
    """Return the application's own declaration of the goal queue, else the default one.

    The default is what Celery itself would declare for an unknown queue, so that a bare
    ``send_task(..., queue="ninja_tasks")`` of another application meets the same queue.
    """
    queue: Queue = app.amqp.queues.get(QUEUE_NAME, _QUEUE)
    return queue


def publish(app: Celery, message: Message) -> None:
    """Send one message to the application's broker.

    Raises:
        PublishError: if the broker did not confirm it, in the time and after the tries that
            :func:`~ninja_tasks.broker.publish_confirmed` allows.
        ConfigurationError: if the broker's address cannot be used.
    """
    publish_confirmed(app, goal_queue(app), partial(_send, app), [message])


def publish_batch(app: Celery, messages: Sequence[Message], sent: Sequence[str] = ()) -> None:
    """Send messages: in one pipeline, where kombu has that for the broker, else one by one.

    A batch that the broker did not confirm is sent again as a whole, with the same ids.

    Args:
        app: the Celery application.
        messages: the batch.
        sent: delivery ids of earlier batches, for the exception.

    Raises:
        PublishError: as :func:`publish`, for the whole batch.
        ConfigurationError: if the broker's address cannot be used.
    """
    if messages:
        publish_confirmed(app, goal_queue(app), partial(_send, app), messages, sent)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``, the last one shorter, reading no further ahead."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _send(app: Celery, producer: Producer, queue: Queue, message: Message, seconds: float) -> None:
    app.send_task(
        TASK_NAME,
        args=(message.body,),
        task_id=message.delivery_id,
        queue=queue,
        router=_NO_ROUTES,
        headers=dict(message.headers),
        serializer="json",
        ignore_result=True,
        retries=message.retries,
        producer=producer,
        # Another try takes another connection.
        retry=False,
        timeout=seconds,
        # RabbitMQ drops what fits no queue, and confirms that it did.
        mandatory=True,
        **({} if message.priority is None else {"priority": message.priority}),
        **REDACTED_REPRESENTATION,
    )

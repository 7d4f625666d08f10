"""How a worker receives goals: what Celery would do to a message before the task sees it.

A message whose parts have the wrong shape is refused here, because Celery would find out where the
goal is lost. One with an ETA goes to the task at once, which parks it: Celery would keep it in the
worker's memory until it is due. One with an expiry goes to the task too, which makes a dead letter
of it when it is too late: Celery would drop it. A message that does not say when its goal was
enqueued gets that time here, before it waits for its turn in the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default

from ..delivery.sending_time import enqueued_at, sent_at
from ..message import ENQUEUED_AT_HEADER, EXPIRES_AT_HEADER, NOT_BEFORE_HEADER, UNDATED_HEADER
from .lane import Lane
from .request import redact_pool_log

__all__ = ["receive_goal"]

#: Header of Celery's, and that of ours by which the task learns of it.
_TASK_DECIDES = {"eta": NOT_BEFORE_HEADER, "expires": EXPIRES_AT_HEADER}
_LONGEST_ID = 255
#: What decides the next backoff needs no more; Celery computes two to this power.
_MOST_RETRIES = 1000


def receive_goal(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's own handler of messages, behind a check of their shape, before the lane."""
    if not hasattr(consumer, "goals"):
        # An application that only has the task, in a worker that install() did not set up.
        plain: Callable[..., Any] = default(task, app, consumer, **options)
        return plain
    lane = consumer.goals.lane_of(task)
    receive: Callable[..., Any] = default(task, app, _ByLane(consumer, lane), **options)
    logging.getLogger("celery.pool").addFilter(redact_pool_log)

    def on_message(message: Any, body: Any, *celerys: Any, **more: Any) -> Any:
        # The first version of Celery's protocol has everything in the body.
        described = body if body is not None else message.headers
        _check(described, message.payload)
        if described.get("retries"):
            described["retries"] = min(described["retries"], _MOST_RETRIES)
        # Of the first version's body Celery keeps what it knows, and all of the headers.
        headers = message.headers
        for theirs, ours in _TASK_DECIDES.items():
            if described.get(theirs):
                headers[ours] = described[theirs]
            if theirs in described:
                described[theirs] = None
        _date(headers, message.properties)
        lane.body = message.payload
        message.refuse = partial(consumer.on_unknown_task, body, message)
        _ack, _reject, *callbacks = celerys
        ack, reject = consumer.goals.ways_to_end(message)
        return receive(message, body, ack, reject, *callbacks, **more)

    return on_message


class _ByLane:
    """A consumer whose pool is the lane, and whose requests wait there."""

    def __init__(self, consumer: Any, lane: Lane) -> None:
        self._consumer = consumer
        self.pool = lane
        self.on_task_request = lane.put

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def _date(headers: Any, properties: Any) -> None:
    """Let the message say when its goal was enqueued."""
    headers.pop(UNDATED_HEADER, None)
    if enqueued_at(headers) is None:
        now = datetime.now(UTC)
        sent = sent_at(headers, properties, now)
        if sent is None:
            headers[UNDATED_HEADER] = True
        headers[ENQUEUED_AT_HEADER] = (sent or now).isoformat()


def _check(described: Any, payload: Any) -> None:
    """Raise ``InvalidTaskError`` unless Celery can work with these types."""
    if isinstance(payload, dict):
        args, kwargs, embed = payload.get("args", ()), payload.get("kwargs", {}), {}
    elif isinstance(payload, (list, tuple)) and len(payload) == 3:
        args, kwargs, embed = payload
    else:
        raise InvalidTaskError("the body is no list of arguments, keywords and options")
    name, retries = described.get("id"), described.get("retries")
    limits = described.get("timelimit")
    shapes = {
        "id": isinstance(name, str) and 0 < len(name) <= _LONGEST_ID and name.isprintable(),
        "arguments": isinstance(args, (list, tuple)),
        "keywords": isinstance(kwargs, dict),
        "options": embed is None or isinstance(embed, dict),
        "retries": retries is None or (_is_number(retries) and retries >= 0),
        "timelimit": limits is None
        or (
            isinstance(limits, (list, tuple))
            and len(limits) == 2
            and all(limit is None or (_is_number(limit) and limit > 0) for limit in limits)
        ),
        "group": all(
            isinstance(described.get(one), (str, type(None)))
            for one in ("group", "root_id", "parent_id")
        ),
        "stamps": isinstance(described.get("stamps"), (dict, type(None)))
        and isinstance(described.get("stamped_headers"), (list, type(None))),
    }
    wrong = [what for what, right in shapes.items() if not right]
    if wrong:
        raise InvalidTaskError(f"of a wrong type: {', '.join(wrong)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

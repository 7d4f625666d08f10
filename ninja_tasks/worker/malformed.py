"""Messages on the goal queue that are no goals of Celery's making: each becomes a dead letter.

Celery ends the worker for some of them, drops others, and returns some for ever. Here none ends
the worker and none is lost: the letter has the message's bytes, and the message is acknowledged
when the letter is stored, by a thread that may wait for Redis. If Redis is away, it is held
and the letter tried again every second.

Messages of other queues keep Celery's treatment, except that none ends the worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property, partial, wraps
from queue import SimpleQueue
from typing import Any

import redis
from celery import bootsteps
from kombu.serialization import prepare_accept_content

from ..config import settings_of
from ..dead_letters.malformed import id_of, malformed_letter, set_aside
from ..dead_letters.report import Reporter
from ..dead_letters.store import DeadLetterStore
from ..delivery.state import Keys, shared_client
from ..message import goal_queue
from ..redis_errors import reason_of

__all__ = ["Malformed"]

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
_LONGEST_ID = 255
_JSON = "application/json"


class Malformed(bootsteps.StartStopStep):  # type: ignore[misc]
    """Stands between the queue and Celery's handling of messages."""

    name = "ninja_tasks.Malformed"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.app = consumer.app
        self._consumer = consumer
        self._unburied: SimpleQueue[tuple[Any, str]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        for name, position in (
            ("on_unknown_message", 1),
            ("on_unknown_task", 1),
            ("on_invalid_task", 1),
            ("on_decode_error", 0),
        ):
            setattr(consumer, name, self._instead_of(getattr(consumer, name), position))
        consumer.create_task_handler = self._guarding(consumer.create_task_handler)

    def start(self, consumer: Any) -> None:
        """Stand in the way of what a new connection brings."""
        consumer.task_consumer.on_decode_error = consumer.on_decode_error

    @cached_property
    def _keys(self) -> Keys:
        return Keys(settings_of(self.app).key_prefix)

    @cached_property
    def _state(self) -> redis.Redis:
        return shared_client(settings_of(self.app))

    @cached_property
    def _store(self) -> DeadLetterStore:
        return DeadLetterStore(self._state, self._keys)

    @cached_property
    def _reporter(self) -> Reporter:
        return Reporter(self._state, self._keys)

    def _instead_of(self, original: Callable[..., Any], position: int) -> Callable[..., Any]:
        """Return a handler that makes a letter of a message on the goal queue."""

        @wraps(original)
        def handle(*arguments: Any) -> Any:
            message = arguments[position]
            if not self._is_of_goal_queue(message):
                return original(*arguments)
            error = arguments[-1] if isinstance(arguments[-1], BaseException) else None
            return self._bury(message, type(error).__name__ if error else "UnknownMessage")

        return handle

    def _guarding(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """Return a factory of Celery's handler of messages that lets no message end the worker."""

        def create_guarded(*arguments: Any, **options: Any) -> Callable[[Any], Any]:
            receive = create(*arguments, **options)
            accepted = prepare_accept_content(self.app.conf.accept_content)
            accepts_json = not accepted or _JSON in accepted

            def receive_guarded(message: Any) -> None:
                fault = getattr(message, "fault", None)
                if fault is None:
                    try:
                        if not accepts_json and self._is_of_goal_queue(message):
                            message.accept = {*accepted, _JSON}
                        receive(message)
                    except Exception as error:  # noqa: BLE001 (it comes from outside)
                        fault = type(error).__name__
                if fault is not None:
                    self._refuse(message, fault)

            return receive_guarded

        return create_guarded

    def _refuse(self, message: Any, fault: str) -> None:
        if self._is_of_goal_queue(message):
            self._bury(message, fault)
        else:
            logger.error("dropped a message that no task can take: %s", fault)
            message.reject_log_error(logger, self._consumer.connection_errors)

    def _is_of_goal_queue(self, message: Any) -> bool:
        where = message.delivery_info or {}
        queue = goal_queue(self.app)
        return where.get("queue", where.get("routing_key")) in (queue.name, queue.routing_key)

    def _bury(self, message: Any, fault: str) -> None:
        """Have a letter written, and then the message acknowledged."""
        self._unburied.put((message, fault))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._write_letters, name="ninja_tasks-malformed", daemon=True
            )
            self._thread.start()

    def _write_letters(self) -> None:
        while True:
            message, fault = self._unburied.get()
            try:
                self._write_letter(message, fault)
            except Exception as error:  # noqa: BLE001 (the message is held, and must not be forgotten)
                logger.warning("holding a malformed message: %s", reason_of(error))
                self._unburied.put((message, fault))
                time.sleep(_AGAIN_SECONDS)

    def _write_letter(self, message: Any, fault: str) -> None:
        raw = getattr(message, "raw", None) or _bytes(message.body)
        letter = malformed_letter(
            self._delivery_id(message, raw),
            raw,
            error="the message is not one that a worker can take; its bytes are in the letter",
            error_class=fault,
            worker=self._consumer.hostname,
        )
        set_aside(letter, raw, self._store, self._reporter)
        consumer = self._consumer
        consumer.goals.loop.call_soon(
            partial(message.ack_log_error, logger, consumer.connection_errors)
        )

    @staticmethod
    def _delivery_id(message: Any, raw: bytes) -> str:
        """Return the message's own id, else one that the same bytes have again."""
        headers = message.headers if isinstance(message.headers, dict) else {}
        own = headers.get("id")
        if isinstance(own, str) and own.isprintable() and 0 < len(own) <= _LONGEST_ID:
            return own
        return id_of(raw)


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")

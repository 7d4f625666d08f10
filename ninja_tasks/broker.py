"""The way to the broker: connections of our own, on which it confirms what it has taken.

The application's own producers stay as they are: on RabbitMQ they do not wait for a confirmation
unless the application says so, and on Redis they may wait for ever. A goal needs both: an answer
from the broker, and an end to the wait for it.

Each application has, in each process, a few connections for its goals. A thread has one of them for
itself while it publishes. One on which anything went wrong is closed and never used again, because
an answer that comes late would be taken for the next goal's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, finalize

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from kombu import Connection, Producer, Queue
from kombu.common import maybe_declare
from kombu.exceptions import EncodeError, KombuError

from .config import publish_timeout_seconds
from .errors import ConfigurationError, PublishError, told_by

__all__ = ["publish_confirmed"]


class _Goal(Protocol):
    @property
    def delivery_id(self) -> str: ...


G = TypeVar("G", bound=_Goal)

#: Goals that a broker, which answers, may take ``publish_timeout_seconds`` for.
_GOALS_IN_TIME = 100
_LIMIT_WITHOUT_POOL = 10
_NO_CODE = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)

#: These say nothing about the broker: another try would be no better.
_NOT_THE_BROKERS = (ConfigurationError, EncodeError, SoftTimeLimitExceeded)


def publish_confirmed(
    app: Celery,
    queue: Queue,
    send: Callable[[Producer, Queue, G, float], object],
    goals: Sequence[G],
    sent: Sequence[str] = (),
) -> None:
    """Let ``send`` publish the goals, and return when the broker has confirmed all of them.

    What fails is sent again as a whole over another connection, as often as the application's
    ``task_publish_retry_policy`` allows and as long as there is time. The broker may be silent for
    the setting ``publish_timeout_seconds`` in all; one that does answer may take this long for each
    hundred goals.

    Args:
        app: the Celery application.
        queue: is declared on each new connection.
        send: publishes one goal by the producer and to the queue that it is given; the number is
            how many seconds the write may take. It is called again for each try.
        goals: their delivery ids are named by the exception.
        sent: delivery ids of earlier batches, for the exception.

    Raises:
        PublishError: whatever went wrong between here and the broker.
        ConfigurationError: if the broker's address cannot be used.
    """
    connections = _connections_of(app)
    patience = _Patience(connections.timeout_seconds, len(goals))
    pauses = _pauses(app)
    while True:
        used_before = False
        try:
            with connections.one(app, queue, patience) as link:
                used_before = link.used_before
                link.publish(queue, send, goals, patience)
            return
        except _NOT_THE_BROKERS:
            raise
        except Exception as error:
            # A connection that was idle may have been lost long ago: that is no try.
            pause = 0.0 if used_before else next(pauses, None)
            if pause is None or pause >= patience.seconds:
                what = "the goal" if len(goals) == 1 else f"{len(goals)} goals"
                raise PublishError(
                    f"the broker did not confirm {what}: {_reason(error)}",
                    delivery_ids=sent,
                    uncertain_ids=[one.delivery_id for one in goals],
                ) from error
        time.sleep(pause)


class _Patience:
    """How long one call may still wait.

    Args:
        silence_seconds: for how long the broker may be silent, over all tries.
        goals: how many are published.
    """

    def __init__(self, silence_seconds: float, goals: int) -> None:
        self._silence_seconds = silence_seconds
        self._silent_since = time.monotonic()
        self._end = self._silent_since + silence_seconds * -(-goals // _GOALS_IN_TIME)

    @property
    def seconds(self) -> float:
        """What is left; never below 0."""
        over_at = min(self._end, self._silent_since + self._silence_seconds)
        return max(0.0, over_at - time.monotonic())

    def heard(self) -> None:
        """The broker has confirmed something."""
        self._silent_since = time.monotonic()

    @contextlib.contextmanager
    def not_lost_by_computing(self) -> Iterator[None]:
        """Make many messages: a busy machine is not a silent broker."""
        began = time.monotonic()
        yield
        self._silent_since += time.monotonic() - began


class _Confirmations:
    """What RabbitMQ has yet to confirm on one channel.

    It confirms a message that fits no queue as well, so each message is mandatory: such a one comes
    back first.
    """

    def __init__(self, channel: Any) -> None:
        self._connection = channel.connection
        self._publish = channel.basic_publish
        self._tags = itertools.count(1)
        self._open: set[int] = set()
        channel.confirm_select()
        channel.basic_publish = self._counted
        channel.events["basic_ack"].add(self._taken)
        channel.events["basic_nack"].add(_refused)
        channel.events["basic_return"].add(_returned)

    def wait(self, patience: _Patience, share: float) -> None:
        """Wait until nothing is open.

        Args:
            patience: how long the broker may be silent.
            share: the part of it that may be spent here.

        Raises:
            TimeoutError: if it is over.
        """
        while self._open:
            before = len(self._open)
            if not (seconds := patience.seconds * share):
                raise TimeoutError("no confirmation in time")
            self._connection.drain_events(timeout=seconds)
            if len(self._open) < before:
                patience.heard()

    def _counted(self, *args: Any, **options: Any) -> Any:
        # Celery's events are published here too, and confirmed.
        self._open.add(next(self._tags))
        return self._publish(*args, **options)

    def _taken(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open = {one for one in self._open if one > tag}
        else:
            self._open.discard(tag)


def _refused(tag: int, multiple: bool) -> None:
    raise ConnectionError("RabbitMQ refused a message")


def _returned(error: Exception, exchange: str, routing_key: str, message: Any) -> None:
    raise error


@dataclass(slots=True)
class _Link:
    """One connection and what is needed to publish on it; for one thread at a time.

    Attributes:
        connection: of kombu.
        producer: on its channel.
        confirmations: what is not confirmed yet; ``None`` where a write's own answer says it.
        used_before: whether something was published on it and confirmed.
        failures: addresses of the broker that were tried in vain before it connected.
    """

    connection: Connection
    producer: Producer
    confirmations: _Confirmations | None = None
    used_before: bool = False
    failures: int = 0

    def open(self, queue: Queue) -> None:
        """Connect, and declare the queue."""
        connection = self.connection
        connection.ensure_connection(
            errback=self._failed,
            max_retries=max(0, len(connection.alt) - 1),
            interval_start=0,
            interval_step=0,
        )
        channel = connection.default_channel
        if connection.transport.driver_type == "amqp":
            self.confirmations = _Confirmations(channel)
        maybe_declare(queue, channel)

    def _failed(self, error: Exception, seconds: float) -> None:
        self.failures += 1

    @property
    def _share(self) -> float:
        # A connection that was idle may be dead: then there must be time for another one.
        return 0.5 if self.used_before else 1.0

    def publish(
        self,
        queue: Queue,
        send: Callable[[Producer, Queue, G, float], object],
        goals: Sequence[G],
        patience: _Patience,
    ) -> None:
        """Publish goals, and return when the broker has confirmed all of them.

        Redis gets them in one pipeline, or one by one where kombu has none, as before version 5.7.

        Raises:
            TimeoutError: if it does not in time.
        """
        # Bound once, or Celery would bind a copy of it for each goal.
        bound = queue.bind(self.producer.channel)
        seconds = patience.seconds * self._share
        if self.confirmations is not None:
            with patience.not_lost_by_computing():
                for one in goals:
                    send(self.producer, bound, one, seconds)
            self.confirmations.wait(patience, self._share)
        elif len(goals) > 1 and getattr(self.producer, "supports_batch_publish", False):
            with patience.not_lost_by_computing(), self.producer.batch(max_size=len(goals)):
                for one in goals:
                    send(self.producer, bound, one, seconds)
        else:
            for one in goals:
                if not patience.seconds:
                    raise TimeoutError("no more time for the rest of them")
                send(self.producer, bound, one, seconds)
                patience.heard()

    def close(self) -> None:
        """Close it without a word to the broker, which may not answer."""
        with contextlib.suppress(Exception):
            if self.confirmations is not None:
                self.connection.collect()
            else:
                self.connection.release()


class _Connections:
    """The connections of one application in this process; safe to share between threads.

    It must not hold the application, which may be forgotten before it.
    """

    def __init__(self, app: Celery) -> None:
        self.timeout_seconds = publish_timeout_seconds(app)
        limit = app.conf.broker_pool_limit
        self._are_kept = bool(limit)
        #: One item for each connection that may be lent. Unlike a semaphore, whose lock is held for
        #: a moment, it bears a signal handler that enqueues.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(limit or _LIMIT_WITHOUT_POOL):
            self._slots.put(None)
        self._idle: list[_Link] = []
        self._addresses = _addresses(app.conf.broker_write_url)
        self._end = finalize(app, self.close_idle)
        self._end.atexit = False

    @contextlib.contextmanager
    def one(self, app: Celery, queue: Queue, patience: _Patience) -> Iterator[_Link]:
        """Lend a connection; one that is given back with an exception is closed.

        Raises:
            TimeoutError: if there is none in time.
            ConfigurationError: if the broker's address cannot be used.
        """
        try:
            self._slots.get(timeout=patience.seconds)
        except Empty:
            raise TimeoutError(
                "all connections to the broker are in use (broker_pool_limit)"
            ) from None
        try:
            link = self._idle.pop()
        except IndexError:
            link = self._new(app, queue, patience)
        is_well = False
        try:
            yield link
            is_well = link.used_before = True
        finally:
            if is_well and self._are_kept:
                self._idle.append(link)
            else:
                link.close()
            if not is_well:
                # The others lead to the same broker, and were not used for longer.
                self.close_idle()
            self._slots.put(None)

    def close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def leave(self) -> None:
        """Let go of connections that belong to the parent of this process, and close none."""
        self._end.detach()

    def _new(self, app: Celery, queue: Queue, patience: _Patience) -> _Link:
        """Connect in a thread of its own, because a name server may keep us waiting for minutes.

        Who gives up leaves the slot to that thread, so that no more of them wait than slots are.
        """
        answer: Future[None] = Future()
        try:
            link = self._unopened(app, max(0.01, patience.seconds))
            self._start_to_open(link, queue, answer)
        except BaseException:
            self._slots.put(None)
            raise
        try:
            error = answer.exception(patience.seconds)
        except TimeoutError:
            if answer.cancel():
                raise TimeoutError("no connection to the broker in time") from None
            error = answer.exception()
        except BaseException:
            if not answer.cancel():
                link.close()
                self._slots.put(None)
            raise
        if error is not None:
            self._slots.put(None)
            raise error
        # The next one begins with the address that has answered.
        turned = link.failures % len(self._addresses)
        self._addresses = self._addresses[turned:] + self._addresses[:turned]
        return link

    def _start_to_open(self, link: _Link, queue: Queue, answer: Future[None]) -> None:
        connect = threading.Thread(
            target=self._open, args=(link, queue, answer), name="ninja_tasks", daemon=True
        )
        try:
            connect.start()
        except RuntimeError:
            # A process that is ending starts no thread any more.
            self._open(link, queue, answer)

    def _open(self, link: _Link, queue: Queue, answer: Future[None]) -> None:
        error: BaseException | None = None
        try:
            link.open(queue)
        except BaseException as caught:  # noqa: BLE001 (it is raised where somebody waits)
            error = caught
            link.close()
        if not answer.set_running_or_notify_cancel():
            link.close()
            self._slots.put(None)
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    def _unopened(self, app: Celery, seconds: float) -> _Link:
        configured = app.conf.broker_transport_options or {}
        # Each address has its share of the time.
        connect_seconds = seconds / len(self._addresses)
        connect_seconds = min(connect_seconds, app.conf.broker_connection_timeout or seconds)
        bounds = {
            "read_timeout": self.timeout_seconds,
            "write_timeout": self.timeout_seconds,
            # One answer more may be waited for after a connection that was lost.
            "socket_timeout": self.timeout_seconds / 2,
            "socket_connect_timeout": connect_seconds,
        }
        options = {
            name: min(value, configured.get(name) or value) for name, value in bounds.items()
        }
        try:
            connection = app.connection_for_write(
                self._addresses if len(self._addresses) > 1 else self._addresses[0],
                connect_timeout=connect_seconds,
                # We ask for confirmations ourselves, of many messages at once.
                transport_options={**options, "confirm_publish": False},
            )
            if connection.get_transport_cls().driver_type == "redis":
                # Who publishes to another broker does not load a client of Redis.
                from .full_redis import patient

                patient(connection)
            return _Link(connection, app.amqp.Producer(connection, auto_declare=False))
        except Exception as error:  # noqa: BLE001 (an address is wrong in many ways)
            raise ConfigurationError(
                f"the broker's address cannot be used ({told_by(error)}): correct "
                "CELERY_BROKER_URL or broker_url, for example redis://localhost:6379/0"
            ) from None


_connections: WeakKeyDictionary[Celery, _Connections] = WeakKeyDictionary()
_lock = threading.RLock()


def _connections_of(app: Celery) -> _Connections:
    found = _connections.get(app)
    if found is None:
        with _lock:
            found = _connections.get(app)
            if found is None:
                found = _connections[app] = _Connections(app)
    return found


def _forget_in_child() -> None:
    """Start anew after a fork: the sockets are the parent's, and its threads do not exist here."""
    global _connections, _lock
    _connections, _lock = WeakKeyDictionary(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _addresses(urls: Any) -> list[str]:
    """Return the addresses of the broker, of which Celery takes one, several, or a list."""
    listed = [urls] if isinstance(urls, str) else list(urls or [])
    return [one for url in listed for one in str(url).split(";")] or ["amqp://"]


def _pauses(app: Celery) -> Iterator[float]:
    """Yield how long to wait before each further try."""
    if not app.conf.task_publish_retry:
        return
    policy = app.conf.task_publish_retry_policy or {}
    tries = policy.get("max_retries", 3)
    pause, longest = policy.get("interval_start", 0), policy.get("interval_max", 1)
    for _ in itertools.count() if tries is None else range(tries):
        yield min(pause, longest)
        pause += policy.get("interval_step", 0.2)


def _reason(error: BaseException) -> str:
    """Return what an exception says, without a message's content."""
    if isinstance(error, KombuError) and error.__cause__ is not None:
        error = error.__cause__
    return _NO_CODE.sub("", told_by(error))

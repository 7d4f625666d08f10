"""Where a worker's goals come from on Redis: connections of its own, and two threads.

The application's connection to the broker, its transport and its leases stay Celery's. Here the
goal queue alone is read.

=========  =======================================================================================
thread     what it does
=========  =======================================================================================
taker      takes goals while some are wanted and there is room for them; while the queue is empty,
           it waits until there is one. A thread that has room for goals may take some too
keeper     sends acknowledgements that went with no claim, puts back what was not begun, renews the
           leases of what is held, and puts back what others held and did not finish
=========  =======================================================================================

Neither needs the worker's loop, so that a long request in a pool without processes costs no lease.

After an error they go on a second later: a full Redis can still be drained, and one that has become
a replica closes the connection, so that the next one may lead to the right server. After that, and
after a start of Redis, the keeper waits one lease before it puts back what others held: nobody may
have been able to renew it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import redis

from ..delivery.state import Keys, check_writes
from ..redis_errors import is_refused, reason_of
from .held import LEASE_SECONDS, OLDER_LEASE_SECONDS, HeldGoals
from .lane import Room
from .taken import Message

__all__ = ["Receiver", "RedisSource"]

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.02
_MOST_ACKNOWLEDGEMENTS = 1000
_LOOK_SECONDS, _SHORT_LOOK_SECONDS = 2.0, 0.1
_KEEP_SECONDS = 1.0
#: How long it expects more of them after one goal with a priority.
_URGENT_SECONDS = 60.0
_PAUSE_AFTER_ERROR_SECONDS = 1.0
_END_SECONDS = 5.0
#: A task that never ends must not keep its message for ever.
_LONGEST_HELD_SECONDS = 600.0
_OLDER_KEYS_EVERY_SECONDS = 60.0
#: Messages that are held beside those that there is room for: letters are written of them.
_MOST_BESIDE = 1000


class Receiver(Protocol):
    """What is given the messages of the queue."""

    def room(self) -> Room:
        """Return for how many more there is room."""

    def receive(self, messages: list[Message]) -> None:
        """Take messages; called in any thread, by one at a time."""

    def is_alive(self, message: Message) -> bool:
        """Return whether a message that is held is still worked on, or will be."""


class RedisSource:
    """Takes, acknowledges, renews and puts back the messages of the goal queue.

    Args:
        held: the queue.
        queue: its name.
        accept: content types that may be decoded.
        receiver: is given messages.
        older_lease_seconds: of messages that workers of version 0.1.0 held.

    Attributes:
        receiving: who has this lock keeps messages from being handed over.
    """

    #: Whether a message that is given back costs nothing but the way.
    gives_back_freely = True
    #: kombu's messages ask their channel for it.
    no_ack_consumers = None

    def __init__(
        self,
        held: HeldGoals,
        queue: str,
        accept: Any,
        receiver: Receiver,
        *,
        older_lease_seconds: float = OLDER_LEASE_SECONDS,
    ) -> None:
        self._goals, self._queue, self._accept = held, queue, accept
        self._receiver = receiver
        self._older_lease_seconds = older_lease_seconds
        self._held: dict[str, Message] = {}
        self._acknowledged: deque[str] = deque()
        self._given_back: deque[str] = deque()
        self._rejected: deque[str] = deque()
        self._is_open = self._is_empty = self._failed = self._may_sweep = False
        self._is_asked = self._is_refused = False
        self._claimed_at = -_GATHER_SECONDS
        self._urgent_until = self._swept_older_at = -_OLDER_KEYS_EVERY_SECONDS
        self._sweeps_from: float | None = None
        self._claiming = threading.Lock()
        self.receiving = threading.RLock()
        self._has_changed, self._has_something = threading.Event(), threading.Event()
        self._has_ended = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(work,), name=f"ninja_tasks-{name}", daemon=True
            )
            for name, work in (("taker", self._take), ("keeper", self._keep))
        ]

    def start(self) -> None:
        """Begin; nothing is taken before :meth:`open`."""
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether any of its threads is."""
        return any(thread.is_alive() for thread in self._threads)

    def check_writes(self, keys: Keys) -> None:
        """Return if goals can be taken.

        Args:
            keys: names of the state's keys.

        Raises:
            redis.RedisError: if Redis does not answer, or takes no writes.
            RuntimeError: if one of the threads has ended.
        """
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a thread that takes goals has ended")
        check_writes(self._goals.client, keys)

    def open(self, is_open: bool) -> None:
        """Begin or cease to take goals."""
        self._is_open = is_open
        self.wake()

    def wake(self) -> None:
        """Let the taker look whether there is room for goals."""
        self._has_changed.set()

    def resize(self) -> None:
        """Do nothing: each claim asks what there is room for."""

    def fetch(self) -> None:
        """Take goals in this thread, if there are some and nobody else is at it."""
        if self._is_empty:
            # The taker waits for some.
            return
        self._is_asked = True
        while self._is_asked and self._claiming.acquire(blocking=False):
            try:
                self._is_asked = False
                if self._seconds_without_claim() > 0:
                    self.wake()
                else:
                    self._claim_into_room()
            except redis.RedisError as error:
                logger.debug("goals were not taken: %s", reason_of(error))
                self._failed = True
                self.wake()
            finally:
                self._claiming.release()

    def give_back(self, messages: list[Message]) -> None:
        """Put messages back that nobody has begun to work on, as the next ones."""
        for message in messages:
            if self._held.pop(message.delivery_tag, None) is not None:
                self._given_back.append(message.delivery_tag)
        self._has_something.set()

    def held(self) -> list[Message]:
        """Return the messages that are neither acknowledged nor given back."""
        return list(self._held.values())

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Gather an acknowledgement; any thread may call it, as kombu's messages do."""
        if self._held.pop(delivery_tag, None) is None:
            # It was given back, and whoever takes it next will see that it is done.
            return
        self._acknowledged.append(delivery_tag)
        if self._is_empty:
            # No claim will come that could take it along.
            self._has_something.set()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a message back, as the last of its list, or forget it."""
        if not requeue:
            self.basic_ack(delivery_tag)
        elif self._held.pop(delivery_tag, None) is not None:
            self._rejected.append(delivery_tag)
            self._has_something.set()

    def end(self) -> None:
        """Send what was acknowledged, put back what is held, and end the connections."""
        self._is_open = False
        self._has_ended.set()
        self.wake()
        self._has_something.set()
        # A claim that goes on is waited for: what it takes is put back.
        with self._claiming:
            pass
        self._threads[1].join(_END_SECONDS)
        try:
            self.give_back(self.held())
            self._send()
        except redis.RedisError as error:
            logger.warning("goals come back when their lease ends: %s", reason_of(error))
        self._goals.client.connection_pool.disconnect()

    def _run(self, work: Callable[[], None]) -> None:
        is_troubled = False
        while not self._has_ended.is_set():
            try:
                work()
                is_troubled = False
            except Exception as error:  # noqa: BLE001 (a thread that ends would leave goals waiting)
                if self._has_ended.is_set():
                    return
                if not is_troubled:
                    logger.warning(
                        "no goals from the broker, trying on every second: %s", reason_of(error)
                    )
                is_troubled = True
                self._is_empty = False
                # Others may not have been able to renew their leases either.
                self._sweeps_from = monotonic() + LEASE_SECONDS
                # Those that are idle lead to the same server.
                self._goals.client.connection_pool.disconnect(inuse_connections=False)
                self._has_ended.wait(_PAUSE_AFTER_ERROR_SECONDS)

    def _take(self) -> None:
        # Before the state is read that it guards.
        self._has_changed.clear()
        if self._failed:
            self._failed = False
            raise redis.ConnectionError("goals could not be taken")
        seconds = self._seconds_without_claim()
        if seconds > 0:
            self._has_changed.wait(seconds)
        elif self._is_empty:
            self._look()
        else:
            with self._claiming:
                if not self._seconds_without_claim():
                    self._claim_into_room()

    def _seconds_without_claim(self) -> float:
        """Return for how long to take nothing, unless something changes.

        Claims of a few goals each would cost a round trip for a few: unless half of the room is
        free, or nothing waits there, it takes no more; and none for a while after the last.
        """
        room = self._receiver.room()
        is_full = not room.free or len(self._held) >= room.size + _MOST_BESIDE
        if not self._is_open or is_full or (room.is_stocked and not room.is_half_free):
            return _KEEP_SECONDS
        if room.is_half_free:
            return 0.0
        return max(0.0, self._claimed_at + _GATHER_SECONDS - monotonic())

    def _look(self) -> None:
        is_urgent = monotonic() < self._urgent_until
        try:
            self._goals.look(_SHORT_LOOK_SECONDS if is_urgent else _LOOK_SECONDS)
            self._is_refused = False
        except redis.ResponseError as error:
            if not is_refused(error):
                raise
            # A full Redis refuses to be looked at, and can be claimed from all the same.
            if not self._is_refused:
                logger.warning("the broker is asked for goals every second: %s", reason_of(error))
            self._is_refused = True
            self._has_changed.wait(_PAUSE_AFTER_ERROR_SECONDS)
        # All lists are claimed from after each look, so that it is enough to look at one.
        self._is_empty = False

    def _claim_into_room(self) -> None:
        if self._has_ended.is_set():
            return
        acknowledged = _first_of(self._acknowledged)
        try:
            claim = self._goals.claim(self._receiver.room().free, acknowledged)
        except BaseException:
            self._acknowledged.extendleft(acknowledged)
            raise
        self._claimed_at = monotonic()
        if claim.may_sweep:
            self._may_sweep = True
            self._has_something.set()
        if not claim.messages:
            self._is_empty = True
            if self._acknowledged:
                self._has_something.set()
            self.wake()
            return
        if any(one.is_urgent for one in claim.messages):
            self._urgent_until = self._claimed_at + _URGENT_SECONDS
        messages = [Message(one, self._queue, self, self._accept) for one in claim.messages]
        self._held.update((message.delivery_tag, message) for message in messages)
        with self.receiving:
            if self._is_open:
                self._receiver.receive(messages)
            else:
                self.give_back(messages)

    def _keep(self) -> None:
        """Send, renew and sweep until something fails."""
        renewed_at = 0.0
        while not self._has_ended.is_set():
            if self._has_something.wait(_KEEP_SECONDS):
                self._has_something.clear()
                # More may follow at once.
                self._has_ended.wait(_GATHER_SECONDS)
            self._send()
            now = monotonic()
            if now - renewed_at >= LEASE_SECONDS / 3:
                renewed_at = now
                self._renew(now)
            if self._may_sweep or now - self._claimed_at > _LOOK_SECONDS + _KEEP_SECONDS:
                self._sweep(now)
            if now - self._swept_older_at >= _OLDER_KEYS_EVERY_SECONDS:
                self._sweep_older(now)

    def _send(self) -> None:
        """Send what is gathered; what could not be sent stays gathered."""
        goals = self._goals
        while self._acknowledged:
            _send_first_of(self._acknowledged, goals.acknowledge)
        while self._given_back:
            _send_first_of(self._given_back, lambda tags: goals.put_back(tags, as_next=True))
            self._is_empty = False
            self.wake()
        while self._rejected:
            _send_first_of(self._rejected, lambda tags: goals.put_back(tags, as_next=False))
            self._is_empty = False
            self.wake()

    def _renew(self, now: float) -> None:
        tags = [
            message.delivery_tag
            for message in self.held()
            if now - message.claimed_at < _LONGEST_HELD_SECONDS and self._receiver.is_alive(message)
        ]
        for first in range(0, len(tags), _MOST_ACKNOWLEDGEMENTS):
            self._goals.renew(tags[first : first + _MOST_ACKNOWLEDGEMENTS])

    def _sweep(self, now: float) -> None:
        if self._sweeps_from is None:
            self._sweeps_from = now + max(0.0, LEASE_SECONDS - self._goals.uptime_seconds())
        if now < self._sweeps_from:
            return
        self._may_sweep = False
        if count := self._goals.sweep():
            self._is_empty = False
            logger.warning("put back %d goals that a worker took and did not finish", count)

    def _sweep_older(self, now: float) -> None:
        # While there are some, it looks each time.
        lease_seconds = self._older_lease_seconds
        if not self._goals.has_older():
            self._swept_older_at = now
        elif self._goals.uptime_seconds() > lease_seconds and (
            count := self._goals.sweep_older(lease_seconds)
        ):
            logger.warning("put back %d messages that a worker of version 0.1.0 held", count)


def _first_of(tags: deque[str]) -> list[str]:
    # Other threads may append meanwhile.
    return [tags.popleft() for _ in range(min(len(tags), _MOST_ACKNOWLEDGEMENTS))]


def _send_first_of(tags: deque[str], send: Callable[[list[str]], None]) -> None:
    first = _first_of(tags)
    try:
        send(first)
    except BaseException:
        tags.extendleft(reversed(first))
        raise

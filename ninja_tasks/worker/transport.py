"""A transport of kombu for workers, by which Redis hands out messages so that none can be lost.

Celery's own takes a message off its list, and notes in a second step that it is held: a worker that
is killed between the two loses it. Here both are one step of a script in Redis. Producers need
nothing of this: the lists and the messages are kombu's own.

Keys, under the names of kombu's transport options:

======================  ==========================================================================
key                     what it is
======================  ==========================================================================
the queue's list        messages that wait; producers push to the left, workers take from the right.
                        A priority above 0 has a list of its own, as in kombu
``unacked_key``         hash of held messages: tag → ``[message,"",queue]``, as in kombu
``unacked_index_key``   sorted set of their tags by the time at which the lease began
======================  ==========================================================================

States of a message, and what moves it; each move is one atomic script, so there is no between:

=========  =======================================================================================
waiting    on its list. ``claim`` moves it to *held*: up to as many as the worker has room for, at
           most 32. A claim whose answer is lost leaves messages held whose lease nobody renews
held       in the hash, with a lease of ``visibility_timeout`` seconds by Redis' clock, a goal of 7
           at the most: its lease counts as begun earlier. ``renew``
           begins the lease anew while the message is worked on. Its end, or a rejection with
           requeue, moves it back to *waiting* (``put_back``), byte for byte as it was sent
done       the acknowledgement removed it. Acknowledgements are gathered for at most 20 ms and go
           along with the next claim. One that is lost makes the message come again: delivery is
           at least once
=========  =======================================================================================

How a worker waits: ``BLMOVE list list RIGHT RIGHT`` moves the last message of the list to where it
was, so it ends as soon as there is one and takes nothing. With several lists it looks at the first
for a tenth of a second, and then claims from all of them.

Whatever lies on a list can be claimed. What is no message of Celery's becomes a :class:`Message`
whose ``fault`` says why, and whose ``raw`` has its bytes.

An error of Redis that is not about the connection (out of memory, no replicas, a wrong type) is
logged, and what it refused is tried again a second later: a claim, acknowledgements. A message that
cannot be put back stays held until its lease ends. A full Redis can still be drained. The answer of
a server that is the wrong one by now closes the connection, and the worker connects anew.

After Redis was started it waits one lease before it puts messages back whose lease has ended: they
ended while nobody could renew them.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from itertools import count
from queue import Empty
from time import monotonic
from typing import Any, Protocol
from uuid import uuid4

import redis
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import dumps, loads
from redis.exceptions import NoScriptError, ResponseError

from ..delivery.redis_errors import dropping, is_refused, reason_of
from ..errors import ConfigurationError
from ..message import QUEUE_NAME
from .full_redis import PUT, is_though_full
from .lane import Room

__all__ = ["Channel", "Message", "QoS", "SentinelTransport", "Transport"]

logger = logging.getLogger(__name__)

_TESTED_KOMBU = "5.7"
_GOAL_LEASE_SECONDS = 7
_MOST_AT_ONCE = 32
_GATHER_SECONDS = 0.02
_MOST_ACKNOWLEDGEMENTS = 1000
_SWEEP_AT_ONCE = 200
_LOOK_SECONDS, _SHORT_LOOK_SECONDS = 1.0, 0.1
_PAUSE_AFTER_ERROR_SECONDS = 1.0


def refuse_untested_kombu(installed: str) -> None:
    """Raise unless this version of kombu is one that the transport was tested with.

    Raises:
        ConfigurationError: it says what to do.
    """
    if installed.split(".")[:2] != _TESTED_KOMBU.split("."):
        raise ConfigurationError(
            f"the crash-safe transport was tested with kombu {_TESTED_KOMBU}, and this is "
            f"{installed}: pip install 'kombu=={_TESTED_KOMBU}.*', or set ninja_transport to "
            '"stock", which can lose goals when a worker is killed'
        )


refuse_untested_kombu(version("kombu"))


class _Script:
    """A Lua script of this package, by text and by digest."""

    def __init__(self, name: str) -> None:
        self.text = (files(__package__) / "lua" / f"{name}.lua").read_text("utf-8")
        self.digest = hashlib.sha1(self.text.encode()).hexdigest()  # noqa: S324 (Redis' own name for it)

    def run(self, client: redis.Redis, keys: list[str], arguments: Iterable[Any]) -> Any:
        words = (len(keys), *keys, *arguments)
        try:
            return client.evalsha(self.digest, *words)
        except NoScriptError:
            return client.eval(self.text, *words)


_CLAIM, _PUT_BACK, _RENEW = (_Script(name) for name in ("claim", "put_back", "renew"))


class HasRoom(Protocol):
    """What takes the messages of a queue."""

    @property
    def waiting(self) -> int:
        """How many messages wait there."""

    def room(self) -> Room:
        """Return for how many more there is room."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim returned: one message's bytes, its tag, and its queue."""

    raw: bytes
    tag: str
    queue: str


class Message(virtual.Message):  # type: ignore[misc]
    """A message as kombu has it.

    Attributes:
        raw: its bytes as they lay on the list; ``None`` for a broadcast.
        fault: why it is none of Celery's, ``None`` if it may be one. Such a one has no headers, and
            its body is its bytes.
    """

    def __init__(self, payload: Any, channel: Any = None, **more: Any) -> None:
        self.raw: bytes | None = None
        self.fault: str | None = None
        self.claimed_at = monotonic()
        if not isinstance(payload, Claimed):
            super().__init__(payload, channel=channel, **more)
            return
        self.raw = payload.raw
        try:
            super().__init__(_document(payload), channel=channel, **more)
        except Exception as error:  # noqa: BLE001 (it comes from outside, and must not end the worker)
            self.fault = f"is no message of Celery's ({type(error).__name__})"
            super().__init__(_stand_in(payload), channel=channel, **more)


def _document(claimed: Claimed) -> Any:
    document = loads(claimed.raw.decode())
    properties = document["properties"]
    properties["delivery_tag"] = claimed.tag
    # What a message says of itself may be wrong; where it lay is known.
    properties["delivery_info"] = {**properties.get("delivery_info", {}), "queue": claimed.queue}
    return document


def _stand_in(claimed: Claimed) -> dict[str, Any]:
    return {
        "body": claimed.raw,
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "headers": {},
        "properties": {
            "delivery_tag": claimed.tag,
            "delivery_info": {
                "exchange": "",
                "routing_key": claimed.queue,
                "queue": claimed.queue,
            },
        },
    }


class QoS(stock.QoS):  # type: ignore[misc]
    """Which messages are held, and whether there is room for more."""

    def can_consume(self) -> bool:
        """Return whether to claim, or to read what was claimed.

        Claims of a few messages each would cost a round trip for a few: unless half of a room is
        free, it waits for more.
        """
        if not self.prefetch_count or self.channel.awaits_claim:
            return True
        return any(self.channel.has_room_for(queue) for queue in self.channel.active_queues)

    def room(self) -> Room:
        """Return the room for messages of queues that have none of their own."""
        if not self.prefetch_count:
            return Room(_MOST_AT_ONCE, _MOST_AT_ONCE)
        elsewhere = sum(lane.waiting for lane in self.channel.rooms.values())
        held = len(self._delivered) - len(self._dirty) - elsewhere
        return Room(max(0, self.prefetch_count - held), self.prefetch_count)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that Redis has as held already."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Give the room back, and let the acknowledgement go with the next ones."""
        virtual.QoS.ack(self, delivery_tag)
        self.channel.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give the room back, and put the message back, as the last of its list, or drop it."""
        virtual.QoS.ack(self, delivery_tag)
        if requeue:
            self.channel.put_back([delivery_tag], "LPUSH")
        else:
            self.channel.acknowledge(delivery_tag)

    def held(self) -> list[tuple[str, Any]]:
        """Return tag and message of all that are neither acknowledged nor rejected."""
        return [one for one in list(self._delivered.items()) if one[0] not in self._dirty]

    def restore_visible(self, *_positional: Any, **_options: Any) -> None:
        """Put messages back whose lease has ended."""
        self.channel.sweep()

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Put all held messages back."""
        tags = [tag for tag, _message in self.held()]
        self._delivered.clear()
        self._dirty.clear()
        self.channel.put_back(tags, "RPUSH")
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put all held messages back, unless somebody takes them over from a lost connection."""
        self._on_collect.cancel()
        if not self.channel.is_taken_over and not self._delivered.restored:
            self.restore_unacked()
        self._delivered.restored = True


class Channel(stock.Channel):  # type: ignore[misc]
    """A channel to a Redis by its address."""

    QoS = QoS
    Message = Message
    # Of its own: another worker on the same Redis may have another idea of how long a lease is.
    unacked_key = "ninja_tasks.unacked"
    unacked_index_key = "ninja_tasks.unacked_index"
    visibility_timeout = _GOAL_LEASE_SECONDS
    unacked_restore_interval = 1
    # A Redis that takes packets and does not answer must not stop the worker's loop for long.
    socket_timeout = 5.0
    socket_connect_timeout = 3.0
    socket_keepalive = True
    #: Whether a later connection goes on with the messages that this one holds.
    is_taken_over = False
    #: Whether an event loop sends what is gathered.
    gathers = False

    def __init__(self, *positional: Any, **options: Any) -> None:
        self._acknowledged: deque[str] = deque()
        self._on_their_way: list[str] = []
        self._oldest_acknowledged = 0.0
        self._asked: str | None = None
        self._looks = False
        self._by_text = False
        self._name = uuid4().hex
        self._claims = count()
        self._tag_prefix = ""
        self._given_back: list[str] = []
        self._has_woken = False
        self._lists: list[tuple[str, str, int]] = []
        self._pause_until = 0.0
        self._sends_again_at = 0.0
        self._sweeps_from: float | None = None
        self._troubled: set[str | None] = set()
        self._cached: Any = None
        self._plain: Any = None
        self._without_acknowledgement: set[str] = set()
        self.claimed_at = 0.0
        #: What has room of its own, by queue; what waits there does not count elsewhere.
        self.rooms: dict[str, HasRoom] = {}
        super().__init__(*positional, **options)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        parameters["connection_class"] = dropping(parameters["connection_class"])
        return parameters

    def _uptime(self) -> float:
        """Return for how many seconds Redis has run, 0 where it may not be asked."""
        try:
            return float(self.scripts.info("server").get("uptime_in_seconds", 0))
        except ResponseError:
            return 0.0

    @property
    def awaits_claim(self) -> bool:
        """Whether Redis was asked for messages and has not answered."""
        return self._asked == "EVALSHA"

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client; kombu makes one for each operation."""
        if client is None:
            if self._cached is None or self._cached.connection_pool is not self.pool:
                self._cached = self._create_client()
            client = self._cached
        yield client

    @property
    def scripts(self) -> redis.Redis:
        """A client that adds no prefix to keys."""
        plain: redis.Redis | None = self._plain
        if plain is None or plain.connection_pool is not self.pool:
            plain = self._plain = redis.Redis(connection_pool=self.pool)
        return plain

    def _key(self, name: str) -> str:
        return f"{self.global_keyprefix}{name}"

    @property
    def _held_keys(self) -> list[str]:
        return [self._key(self.unacked_key), self._key(self.unacked_index_key)]

    def basic_consume(self, queue: str, no_ack: bool = False, *rest: Any, **options: Any) -> Any:
        """Begin to take messages from a queue."""
        self._without_acknowledgement.discard(queue)
        if no_ack:
            self._without_acknowledgement.add(queue)
        return super().basic_consume(queue, no_ack, *rest, **options)

    def _queue_bind(self, *positional: Any, **options: Any) -> None:
        """Declare a binding; a Redis that refuses writes likely has it already."""
        try:
            super()._queue_bind(*positional, **options)
        except ResponseError as error:
            if not is_refused(error):
                raise
            logger.warning("a binding was not declared: %s", reason_of(error))

    def maybe_refresh_binding_expiry(self) -> None:
        """Renew what kombu keeps of bindings; where Redis refuses it, it is tried again soon."""
        try:
            super().maybe_refresh_binding_expiry()
        except ResponseError as error:
            logger.debug("a binding was not renewed: %s", reason_of(error))

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        """Put a message on its list."""
        batch = options.get("_publish_batch")
        if not is_though_full() or batch is None or self.global_keyprefix:
            super()._put(queue, message, **options)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        batch.add("eval", PUT, 2, self.unacked_key, key, dumps(message))

    def _receive(self) -> Any:
        """Read what was broadcast; a Redis that refuses writes may refuse a health check too."""
        try:
            return super()._receive()
        except ResponseError as error:
            logger.debug("a broadcast was not read: %s", reason_of(error))
            raise Empty from None

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Look for messages, or claim some: whichever is due."""
        if monotonic() < self._pause_until:
            return
        active = self._queue_cycle.consume(len(self.active_queues))
        queues = [queue for queue in active if self.has_room_for(queue)]
        if not queues or not self._may_ask(set(active).difference(queues)):
            return
        self._lists = [
            (self._key(self._q_for_pri(queue, priority)), queue, priority)
            for priority in self.priority_steps
            for queue in queues
        ]
        connection = self.client.connection
        if self._looks:
            self._asked = "BLMOVE"
            command = self._look(self._lists, is_all=len(queues) == len(active))
        else:
            self._asked = "EVALSHA"
            command = self._claim(self._lists)
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        try:
            connection.send_command(*command)
        except ResponseError as error:
            # A connection that was idle is asked first whether it is well, and that may be refused.
            self._acknowledged.extendleft(self._on_their_way)
            self._pause(self._asked, error)
            self._forget_question()

    def _may_ask(self, full: Iterable[str]) -> bool:
        """Return whether to ask now: a look must not outlast what was fetched from full queues.

        Where it would, messages are claimed every now and then instead.

        Args:
            full: queues for whose messages there is no room.
        """
        lasts = (self.rooms[queue].room().lasts_seconds for queue in full if queue in self.rooms)
        if min(lasts, default=math.inf) > _SHORT_LOOK_SECONDS:
            return True
        self._looks = False
        return monotonic() >= self.claimed_at + _GATHER_SECONDS

    def has_room_for(self, queue: str) -> bool:
        """Return whether it is worth to claim messages of a queue."""
        lane = self.rooms.get(queue)
        room = self.qos.room() if lane is None else lane.room()
        if room.is_half_free or not room.free or room.is_stocked:
            return room.is_half_free
        return bool(monotonic() >= self.claimed_at + _GATHER_SECONDS)

    def _look(self, lists: list[tuple[str, str, int]], *, is_all: bool) -> tuple[Any, ...]:
        first = lists[0][0]
        if len(lists) == 1 and is_all:
            return ("BLMOVE", first, first, "RIGHT", "RIGHT", self.brpop_timeout or _LOOK_SECONDS)
        # All lists are claimed from after each look, so that it is enough to look at one of them;
        # and there may be room for messages of another queue soon.
        return ("BLMOVE", first, first, "RIGHT", "RIGHT", _SHORT_LOOK_SECONDS)

    def _claim(self, lists: list[tuple[str, str, int]]) -> tuple[Any, ...]:
        own = sorted(self.rooms)
        rooms = [self.qos.room().free, *(self.rooms[queue].room().free for queue in own)]
        number = {queue: at for at, queue in enumerate(own, 2)}
        self._tag_prefix = f"{self._name}{next(self._claims):x}"
        self._has_woken = True
        self._on_their_way = self._take_acknowledged()
        self.claimed_at = monotonic()
        entries = [
            word
            for _key, queue, priority in lists
            for word in (
                f',"","{queue}"]',
                priority,
                number.get(queue, 1),
                self._has_run_seconds(queue),
            )
        ]
        sizes = (len(rooms), *rooms)
        keys = [*self._held_keys, *(key for key, _queue, _priority in lists)]
        most, prefix = _MOST_AT_ONCE, self._tag_prefix
        words = (len(keys), *keys, most, prefix, *sizes, *entries, *self._on_their_way)
        if self._by_text:
            return ("EVAL", _CLAIM.text, *words)
        return ("EVALSHA", _CLAIM.digest, *words)

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to the last question, and deliver what was claimed."""
        asked = self._asked
        try:
            try:
                reply = self.client.parse_response(self.client.connection, asked, **options)
            except NoScriptError:
                self._by_text = True
                self._acknowledged.extendleft(self._on_their_way)
                raise Empty from None
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except ResponseError as error:
                self._acknowledged.extendleft(self._on_their_way)
                # A full Redis refuses to be looked at, and can be claimed from all the same.
                self._looks = False
                self._pause(asked, error)
                raise Empty from None
            self._by_text = False
            self._troubled.discard(asked)
        finally:
            self._forget_question()
            self._flush_brpop_reauth()
        if asked == "BLMOVE":
            self._looks = False
            raise Empty
        self._looks = not reply
        if not reply:
            raise Empty
        self._deliver(reply)
        return True

    def _forget_question(self) -> None:
        self._in_poll = None
        self._asked = None
        self._has_woken = False
        self._on_their_way = []

    def _pause(self, asked: str | None, error: ResponseError) -> None:
        self._pause_until = monotonic() + _PAUSE_AFTER_ERROR_SECONDS
        self._say_once(asked, "hands out no messages", error)

    def _say_once(self, asked: str | None, what: str, error: ResponseError) -> None:
        if asked not in self._troubled:
            logger.warning("Redis %s, trying on every second: %s", what, reason_of(error))
        self._troubled.add(asked)

    def _deliver(self, reply: list[Any]) -> None:
        unwanted = []
        for at in range(0, len(reply), 2):
            _key, queue, priority = self._lists[reply[at] - 1]
            tag = f"{self._tag_prefix}.{at // 2 + 1}.{priority}"
            if queue in self.connection._callbacks and queue in self._active_queues:
                self.connection._deliver(Claimed(reply[at + 1], tag, queue), queue)
                if queue in self._without_acknowledgement:
                    self.acknowledge(tag)
            else:
                unwanted.append(tag)
        if unwanted:
            self.put_back(unwanted, "RPUSH")
        self._queue_cycle.rotate(self._lists[reply[-2] - 1][1])

    def acknowledge(self, tag: str) -> None:
        """Gather an acknowledgement; without an event loop it is sent at once."""
        if self.closed:
            return
        if not self._acknowledged:
            self._oldest_acknowledged = monotonic()
        self._acknowledged.append(tag)
        if not self.gathers:
            self.send_acknowledged()
        elif not self._has_woken and self._has_other_queues() and self.qos.room().is_half_free:
            # Results arrive from other threads, and the loop sleeps.
            self._has_woken = True
            self.connection.cycle.wake()

    def _has_other_queues(self) -> bool:
        return any(queue not in self.rooms for queue in self._active_queues)

    def _take_acknowledged(self) -> list[str]:
        # Other threads may append meanwhile.
        most = min(len(self._acknowledged), _MOST_ACKNOWLEDGEMENTS)
        return [self._acknowledged.popleft() for _ in range(most)]

    def send_acknowledged(self) -> None:
        """Send what is gathered; what could not be sent stays gathered."""
        while tags := self._take_acknowledged():
            held, leases = self._held_keys
            try:
                with self.scripts.pipeline(transaction=True) as pipeline:
                    pipeline.zrem(leases, *tags)
                    pipeline.hdel(held, *tags)
                    pipeline.execute()
            except BaseException:
                self._acknowledged.extendleft(tags)
                raise

    def tend(self) -> bool:
        """Send what was gathered for long enough, and return whether there is something to tend."""
        if self._acknowledged and not self.awaits_claim:
            overdue = monotonic() >= self._oldest_acknowledged + _GATHER_SECONDS
            if overdue or len(self._acknowledged) >= _MOST_AT_ONCE:
                self._send_unless_refused()
        qos = self._qos
        return bool(self._acknowledged or (qos and len(qos._delivered) > len(qos._dirty)))

    def _send_unless_refused(self) -> None:
        """Send acknowledgements; what Redis refuses for now stays gathered."""
        if monotonic() < self._sends_again_at:
            return
        try:
            self.send_acknowledged()
            self._troubled.discard("ZREM")
        except ResponseError as error:
            self._sends_again_at = monotonic() + _PAUSE_AFTER_ERROR_SECONDS
            self._say_once("ZREM", "takes no acknowledgements", error)

    def put_back(self, tags: list[str], command: str) -> None:
        """Put held messages back on their lists; one that Redis refuses comes when its lease ends.

        Args:
            tags: of the messages; one that is not held any more is passed over.
            command: ``"RPUSH"`` to be the next ones, ``"LPUSH"`` to be the last ones.
        """
        if not tags or self.closed:
            return
        words = (command, self.global_keyprefix, self.sep, "", *tags)
        try:
            _PUT_BACK.run(self.scripts, self._held_keys, words)
        except ResponseError as error:
            logger.warning("messages come back when their lease ends: %s", reason_of(error))

    def give_back(self, tags: list[str]) -> None:
        """Put messages back that nobody has begun to work on, as the next ones.

        If the connection is lost, the next one does so.
        """
        for tag in tags:
            virtual.QoS.ack(self.qos, tag)
        self._given_back += tags
        if not self.closed:
            self.put_back(self._given_back, "RPUSH")
            self._given_back.clear()

    def renew(self, tags: list[str]) -> None:
        """Begin the leases of held messages anew."""
        words = [word for tag in tags for word in (tag, self._has_run_seconds(self._queue_of(tag)))]
        if words:
            _RENEW.run(self.scripts, self._held_keys[1:], words)

    @property
    def goal_lease_seconds(self) -> float:
        """How long a goal is held that nobody renews, whatever the application's lease is."""
        return min(self.visibility_timeout, _GOAL_LEASE_SECONDS)

    def _has_run_seconds(self, queue: str | None) -> float:
        """Return for how long a lease counts as begun: all end by the application's lease."""
        return self.visibility_timeout - self.goal_lease_seconds if queue == QUEUE_NAME else 0

    def _queue_of(self, tag: str) -> str | None:
        message = self.qos._delivered.get(tag)
        queue: str | None = (message.delivery_info or {}).get("queue") if message else None
        return queue

    def sweep(self) -> int:
        """Put messages back whose lease has ended, and return how many."""
        if self._sweeps_from is None:
            self._sweeps_from = monotonic() + max(0.0, self.goal_lease_seconds - self._uptime())
        if monotonic() < self._sweeps_from:
            return 0
        words = ("RPUSH", self.global_keyprefix, self.sep, self.visibility_timeout, _SWEEP_AT_ONCE)
        try:
            count: int = _PUT_BACK.run(self.scripts, self._held_keys, words)
        except ResponseError as error:
            logger.warning("held messages could not be put back: %s", reason_of(error))
            return 0
        if count:
            logger.warning("put back %d messages that a worker took and did not finish", count)
        return count

    def take_over(self, lost: Channel, messages: Iterable[Any]) -> None:
        """Go on where a lost connection ended.

        Args:
            lost: its channel.
            messages: those of its messages that are being worked on.
        """
        self._acknowledged.extend(lost._acknowledged)
        self.put_back(lost._given_back, "RPUSH")
        for message in messages:
            message.channel = self
            self.qos.append(message, message.delivery_tag)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._in_poll is connection:
            self._asked = None
            self._acknowledged.extendleft(self._on_their_way)
            self._on_their_way = []
        super()._on_connection_disconnect(connection)

    def close(self) -> None:
        """Send what is gathered, put back what is held, and end the connections."""
        if not self.closed and not self.is_taken_over:
            try:
                self._read_last_claim()
                self.send_acknowledged()
                if self._qos:
                    self._qos.restore_unacked_once()
            except (*self.connection_errors, ResponseError) as error:
                logger.warning("what is held comes back when its lease ends: %s", reason_of(error))
                self._qos._delivered.restored = True
        # kombu would wait for the answer to a question of its own.
        self._acknowledged.extend(self._on_their_way)
        self._in_poll = None
        super().close()

    def _read_last_claim(self) -> None:
        if not self.awaits_claim or not self._in_poll:
            return
        self._active_queues.clear()
        with suppress(Empty):
            self._brpop_read()


class SentinelChannel(Channel, stock.SentinelChannel):  # type: ignore[misc]
    """A channel to a Redis that Sentinel names."""


class _Poller(stock.MultiChannelPoller):  # type: ignore[misc]
    """kombu's, which also sends what the channels gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Any = None
        self._is_due = False

    def on_poll_start(self) -> None:
        """Ask for messages where there is room, then send acknowledgements that went with none."""
        super().on_poll_start()
        busy = [channel.tend() for channel in list(self._channels)]
        if any(busy) and self.loop is not None and not self._is_due:
            self._is_due = True
            self.loop.call_later(_GATHER_SECONDS, self._tick)

    @property
    def fds(self) -> list[int]:
        """Those of which the loop has not heard: kombu tells it of each before every poll."""
        known = () if self.loop is None else self.loop.readers
        return [fd for fd in self._fd_to_chan if fd not in known]

    def wake(self) -> None:
        """Let the loop look whether there is something to do."""
        if self.loop is not None:
            self.loop.call_soon(bool)

    def _tick(self) -> None:
        self._is_due = False


class Transport(stock.Transport):  # type: ignore[misc]
    """For ``redis://``, ``rediss://`` and a Unix socket."""

    Channel = Channel

    def __init__(self, *positional: Any, **options: Any) -> None:
        super().__init__(*positional, **options)
        self.cycle = _Poller()

    def create_channel(self, connection: Any) -> Any:
        """Return a channel that gathers if this transport has an event loop."""
        channel = super().create_channel(connection)
        channel.gathers = self.cycle.loop is not None
        return channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Run in a worker's event loop from now on."""
        self.cycle.loop = loop
        for channel in self.channels:
            channel.gathers = True
        super().register_with_event_loop(connection, loop)
        # kombu reads the interval's default from its own channel.
        self.cycle._restore_messages_tref.cancel()
        seconds = connection.client.transport_options.get("unacked_restore_interval")
        self.cycle._restore_messages_tref = loop.call_repeatedly(
            seconds or self.Channel.unacked_restore_interval, self.cycle.maybe_restore_messages
        )


class SentinelTransport(Transport, stock.SentinelTransport):  # type: ignore[misc]
    """For ``sentinel://``."""

    default_port = stock.SentinelTransport.default_port
    Channel = SentinelChannel

"""The goals on a queue in Redis, and those that workers hold: each move is one atomic script.

Celery's own transport takes a message off its list, and notes in a second step that it is held: a
worker that is killed between the two loses it. Here both are one step. Producers need nothing of
this: the lists and the messages are kombu's own.

===========================  =====================================================================
key                          what it is
===========================  =====================================================================
the queue's list             messages that wait; producers push to the left, workers take from the
                             right. A priority above 0 has a list of its own, as in kombu
``ninja_tasks.held``         hash of held messages: tag → ``[message,"",queue]``, as in kombu
``ninja_tasks.held:leases``  sorted set of their tags by the time at which the lease began
===========================  =====================================================================

=========  =======================================================================================
state      what moves a message
=========  =======================================================================================
waiting    on its list. :meth:`HeldGoals.claim` moves up to 32 to *held*. A claim whose answer is
           lost leaves messages held whose lease nobody renews
held       in the hash, with a lease of six seconds by Redis' clock. :meth:`HeldGoals.renew`
           begins it anew while the goal is worked on. Its end, or :meth:`HeldGoals.put_back`, moves
           the message back to *waiting*, byte for byte as it was sent
done       the acknowledgement removed it. One that is lost makes the message come again: delivery
           is at least once
=========  =======================================================================================

Version 0.1.0 held messages of all queues of an application under other keys, with the lease that
the application's ``visibility_timeout`` said. What it left there goes back by the rule of its own
workers, so that some of them may still run (:meth:`HeldGoals.sweep_older`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

import redis

from ..message import OLDER_HELD_KEYS

__all__ = [
    "LEASE_SECONDS",
    "MOST_AT_ONCE",
    "OLDER_LEASE_SECONDS",
    "Claim",
    "HeldGoals",
    "TakenMessage",
]

LEASE_SECONDS = 6.0
#: Of version 0.1.0, where the application set no ``visibility_timeout``.
OLDER_LEASE_SECONDS = 7.0
#: Messages that one claim takes.
MOST_AT_ONCE = 32

_KEYS = ("ninja_tasks.held", "ninja_tasks.held:leases")
_SWEEP_AT_ONCE = 200


class TakenMessage(NamedTuple):
    """A message that was claimed.

    Attributes:
        raw: its bytes, as they lay on the list.
        tag: by which it is held.
        is_urgent: whether it lay on a list of its own for its priority.
    """

    raw: bytes
    tag: str
    is_urgent: bool


class Claim(NamedTuple):
    """What a claim returned.

    Attributes:
        messages: in the order in which they were sent.
        may_sweep: whether there are held messages whose lease has ended.
    """

    messages: list[TakenMessage]
    may_sweep: bool


class HeldGoals:
    """Asks Redis; safe to share between threads.

    Args:
        client: of the broker's Redis; it adds no prefix to keys, and returns bytes.
        queue: the queue's name.
        prefix: of all keys, kombu's ``global_keyprefix``.
        separator: between a list's name and its priority.
        priorities: kombu's steps, in the order in which their lists are served.

    Every method raises ``redis.RedisError`` if Redis does not do it.
    """

    def __init__(
        self,
        client: redis.Redis,
        queue: str,
        *,
        prefix: str = "",
        separator: str = "\x06\x16",
        priorities: Sequence[int] = (0, 3, 6, 9),
    ) -> None:
        self.client = client
        self._prefix, self._separator = prefix, separator
        self._keys = [prefix + key for key in _KEYS]
        self._older_keys = [prefix + key for key in OLDER_HELD_KEYS]
        name = prefix + queue
        self._lists = [f"{name}{separator}{step}" if step else name for step in priorities]
        self._priorities = tuple(priorities)
        self._ends = [word for step in priorities for word in (f',"","{queue}"]', step)]
        self._worker, self._claims = uuid4().hex, count()
        self._claim, self._put_back, self._renew = (
            _registered(client, name) for name in ("claim", "put_back", "renew")
        )

    def claim(self, most: int, acknowledged: Sequence[str] = ()) -> Claim:
        """Take messages, and acknowledge others.

        Args:
            most: how many to take; 32 at the most.
            acknowledged: tags of messages that are done.
        """
        prefix = f"{self._worker}{next(self._claims):x}"
        words = (min(most, MOST_AT_ONCE), prefix, LEASE_SECONDS, *self._ends, *acknowledged)
        may_sweep, *taken = self._claim(keys=[*self._keys, *self._lists], args=words)
        messages = []
        for at in range(0, len(taken), 2):
            priority = self._priorities[taken[at] - 1]
            tag = f"{prefix}.{at // 2 + 1}.{priority}"
            messages.append(TakenMessage(taken[at + 1], tag, taken[at] > 1))
        return Claim(messages, bool(may_sweep))

    def look(self, seconds: float) -> None:
        """Wait until there is a message on the first list, or for so long; it takes none.

        A full Redis refuses it.
        """
        first = self._lists[0]
        # What is moved to where it was is not taken.
        self.client.blmove(first, first, seconds, "RIGHT", "RIGHT")  # type: ignore[arg-type]

    def acknowledge(self, tags: Sequence[str]) -> None:
        """Forget messages that are done; one that is not held any more is passed over."""
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.zrem(self._keys[1], *tags)
            pipeline.hdel(self._keys[0], *tags)
            pipeline.execute()

    def put_back(self, tags: Sequence[str], *, as_next: bool) -> None:
        """Put messages back on their lists; one that is not held any more is passed over.

        Args:
            tags: of the messages.
            as_next: whether they are the next ones to be taken, in their order, or the last ones.
        """
        command = "RPUSH" if as_next else "LPUSH"
        self._put_back(keys=self._keys, args=(command, self._prefix, self._separator, "", *tags))

    def renew(self, tags: Sequence[str]) -> None:
        """Begin the leases of held messages anew."""
        self._renew(keys=self._keys[1:], args=tags)

    def sweep(self) -> int:
        """Put messages back whose lease has ended, and return how many."""
        return self._sweep(self._keys, LEASE_SECONDS)

    def has_older(self) -> bool:
        """Return whether version 0.1.0 left held messages."""
        return bool(self.client.exists(*self._older_keys))

    def sweep_older(self, lease_seconds: float) -> int:
        """Put messages of any queue back whose lease has ended and that version 0.1.0 held.

        Args:
            lease_seconds: for how long its workers hold a message that they do not renew.
        """
        return self._sweep(self._older_keys, lease_seconds)

    def uptime_seconds(self) -> float:
        """Return for how long Redis has run, 0 where it may not be asked."""
        try:
            return float(self.client.info("server").get("uptime_in_seconds", 0))
        except redis.ResponseError:
            return 0.0

    def _sweep(self, keys: list[str], lease_seconds: float) -> int:
        words = ("RPUSH", self._prefix, self._separator, lease_seconds, _SWEEP_AT_ONCE)
        return int(self._put_back(keys=keys, args=words))


def _registered(client: redis.Redis, name: str) -> Callable[..., Any]:
    text = files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    script: Callable[..., Any] = client.register_script(text)
    return script

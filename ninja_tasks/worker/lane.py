"""The lane: goals that this worker has fetched and not begun, and when each of them may begin.

A goal begins when the pool can take it and this worker has a slot of the shared limit for it. So no
goal waits for the limit in the pool, nor in Redis. A thread of the lane's own asks the limiter,
because neither the worker's loop nor the pool may wait for it.

A slot whose goal made no request (it was delivered already, or delivery is paused, ...) comes back
and is used by the next goal. If other tasks take all slots of the pool, one goal at a time waits in
the pool's line, and keeps its slot however long that takes.

:class:`PoolLane` hands goals to any pool one by one; :mod:`ninja_tasks.worker.series` has the lane
for a pool of threads.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

from celery.concurrency.solo import TaskPool as SoloPool

from ..delivery.limiter import Limiter
from ..delivery.slots import Slot, Slots, slot_was_used
from ..redis_errors import reason_of

__all__ = ["Lane", "PoolLane", "Room", "Turn", "decoded"]

logger = logging.getLogger(__name__)

#: Goals are fetched for as long as this at the limit in force.
_FETCHED_AHEAD_SECONDS = 1.0
_FEWEST_FETCHED = 4
#: Goals that end in this time wait for none of each other, so that as many may be fetched together.
_QUICK_SECONDS = 0.1
#: Brokers take a message for lost that is held for longer than some minutes.
_LONGEST_WAIT_SECONDS = 300.0
#: Slots that come closer to each other than this are used together: to wake a thread costs more.
_SHORTEST_PAUSE_SECONDS = 0.003
#: A goal that has not begun after this waits for other tasks.
_CROWDED_AFTER_SECONDS, _CROWDED_UNTIL_SECONDS = 0.05, 60.0
_AFTER_A_FAILURE_SECONDS = 0.5


class Room(NamedTuple):
    """For how many more goals there is room.

    Attributes:
        free: how many more may be fetched.
        size: how many could be if there was none.
        is_stocked: whether some wait there.
        most_held: how many goals this worker may have, those in the pool included.
    """

    free: int
    size: int
    is_stocked: bool = False
    most_held: int = 1

    @property
    def is_half_free(self) -> bool:
        """Whether it is worth to fetch some."""
        return self.free > 0 and self.free * 2 >= self.size


@dataclass(slots=True, eq=False)
class Turn:
    """A goal that begins.

    Attributes:
        request: Celery's.
        body: of its message, decoded.
        slot: by which it may be sent.
        given_at: when it got the slot.
        has_begun: whether the pool has taken it.
        is_over: whether it has ended, or was given back.
    """

    request: Any
    body: Any
    slot: Slot
    given_at: float
    has_begun: bool = False
    is_over: bool = False


class Lane:
    """Stands between Celery's requests of goals and the pool.

    Args:
        limiter: of all workers.

    Attributes:
        concurrency: how many goals the pool may be given at once.
        prefetch: how many goals this worker may have, those in the pool included.
        most_ahead: how many it may have at the most if they take hardly any time, where that is
            more.
        on_request: Celery's own way to the pool.
        on_room: is called when there is room for more goals, in any thread.
        body: of the message that Celery is making a request of; it would be decoded again.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._slots = Slots()
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._turns: set[Turn] = set()
        self._not_begun: deque[Turn] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = math.inf
        self._is_ended = False
        self._is_troubled = False
        self._has_told_room = False
        self._tries_from: float | None = None
        #: How many goals ended in a short time, in the last such time.
        self._quick = self._ended = 0
        self._ended_from = 0.0
        self.concurrency = 1
        self.prefetch = self.most_ahead = 0
        self.on_request: Callable[[Any], None] = _nowhere
        self.on_room: Callable[[], Any] = bool
        self.body: Any = None

    def start(self) -> None:
        """Begin to ask the limiter; it hears of this worker's setting at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ninja_tasks-lane", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stop asking the limiter."""
        with self._changed:
            self._is_ended = True
            self._changed.notify()

    def put(self, request: Any) -> None:
        """Put a goal into the lane; called by one thread at a time."""
        body, self.body = self.body, None
        with self._changed:
            self._waiting.append((request, body))
            self._has_told_room = False
        self.hand_out()
        self._wake()

    def try_one(self, does: bool) -> None:
        """Let goals go one at a time, or as many as may.

        Args:
            does: whether the API is tried with one goal, to see if it answers again.
        """
        with self._changed:
            if does != (self._tries_from is not None):
                self._tries_from = monotonic() if does else None
                self._changed.notify()

    @property
    def is_empty(self) -> bool:
        """Whether no goal waits, and none runs."""
        return not self._waiting and not self._turns

    @property
    def waiting(self) -> int:
        """How many goals wait in the lane."""
        return len(self._waiting)

    def room(self) -> Room:
        """Return for how many more goals there is room."""
        with self._changed:
            waiting, running = len(self._waiting), len(self._turns)
        if self._tries_from is not None:
            return Room(max(0, 1 - waiting - self._trying()), 1, waiting > 0, running + 1)
        size = most = max(self.prefetch, min(self._quick, self.most_ahead))
        rate = self._slots.rate
        if rate is not None:
            per_second = rate.goals / rate.seconds
            fewest = min(_FEWEST_FETCHED, math.ceil(_LONGEST_WAIT_SECONDS * per_second))
            most = min(size, max(fewest, math.ceil(_FETCHED_AHEAD_SECONDS * per_second)))
        free = max(0, min(size - waiting - running, most - waiting))
        return Room(free, most, waiting > 0, min(size, max(2 * most, most + running)))

    def empty(self, *, is_lost: bool) -> list[Any]:
        """Take all goals out that have not begun, and return their requests in their order.

        Args:
            is_lost: whether the connection is, and Celery has forgotten what waits for the pool.
        """
        with self._changed:
            turns = [turn for turn in self._not_begun if not turn.has_begun and not turn.is_over]
            requests = [turn.request for turn in self._taken_back(turns, is_lost=is_lost)]
            requests += [request for request, _body in self._waiting]
            self._waiting.clear()
        return requests

    def hand_out(self) -> None:
        """Let goals begin whose slots have come."""
        raise NotImplementedError

    def _taken_back(self, turns: list[Turn], *, is_lost: bool) -> list[Turn]:
        """End turns that will not begin any more, and return those that nobody else holds."""
        raise NotImplementedError

    def _hand_out_from_thread(self) -> None:
        """Let goals begin; called in the lane's own thread."""
        raise NotImplementedError

    def _can_begin(self) -> bool:
        """Return whether a goal waits that the pool can take."""
        with self._changed:
            return bool(self._waiting) and self._free(monotonic()) > 0

    def _take(self, *, in_row: bool = False) -> Turn | None:
        """Return a goal that begins now, ``None`` if none may.

        Args:
            in_row: whether a thread takes it that has just ended another.
        """
        with self._changed:
            now = monotonic()
            if not self._waiting or (self._open() if in_row else self._free(now)) <= 0:
                return None
            slot = self._slots.take(now)
            if slot is None:
                return None
            turn = Turn(*self._waiting.popleft(), slot, now)
            self._turns.add(turn)
            self._not_begun.append(turn)
        self._tell_room()
        return turn

    def _free(self, now: float) -> int:
        """Return how many goals the pool could take now."""
        while self._not_begun and (self._not_begun[0].has_begun or self._not_begun[0].is_over):
            self._not_begun.popleft()
        if self._not_begun:
            waits = now - self._not_begun[0].given_at
            if _CROWDED_AFTER_SECONDS < waits < _CROWDED_UNTIL_SECONDS:
                return 0
        return self._open()

    def _open(self) -> int:
        """Return how many more goals the pool may have."""
        if self._tries_from is not None:
            return 1 - self._trying()
        return self.concurrency - len(self._turns)

    def _trying(self) -> int:
        """Return how many goals began since the API is tried with one at a time."""
        with self._changed:
            return sum(turn.given_at >= (self._tries_from or 0) for turn in self._turns)

    def _note_begin(self, turn: Turn) -> None:
        turn.has_begun = True
        if monotonic() - turn.given_at > _CROWDED_AFTER_SECONDS:
            self._wake()

    def _finish(self, turn: Turn, *, used: bool) -> None:
        """Note that a goal has ended.

        Args:
            turn: the goal.
            used: whether it made a request; otherwise another goal may use its slot.
        """
        with self._changed:
            self._end_of(turn, used=used)
        self._tell_room()

    def _end_of(self, turn: Turn, *, used: bool) -> None:
        if turn.is_over:
            return
        turn.is_over = True
        self._turns.discard(turn)
        self._ended += 1
        now = monotonic()
        if now >= self._ended_from + _QUICK_SECONDS:
            self._quick = int(self._ended * _QUICK_SECONDS / (now - self._ended_from))
            self._ended, self._ended_from = 0, now
        if not used:
            self._slots.give_back(turn.slot)

    def _tell_room(self) -> None:
        if self._has_told_room:
            return
        room = self.room()
        if room.is_half_free or (room.free and not room.is_stocked):
            self._has_told_room = True
            self.on_room()

    def _wake(self) -> None:
        """Wake the lane's thread if it would come too late."""
        with self._changed:
            if self._acts_at(monotonic()) < self._wakes_at:
                self._wakes_at = -math.inf
                self._changed.notify()

    def _acts_at(self, now: float) -> float:
        """Return when the lane's thread has something to do."""
        free = self._free(now)
        asks_at = self._slots.ask_at(now, len(self._waiting), max(0, free))
        begins_at = self._slots.due_at(now) if self._can_begin() else math.inf
        return min(asks_at, begins_at)

    def _run(self) -> None:
        """Ask for slots, and let goals begin, until :meth:`end`."""
        wanted: int | None = 0
        while not self._is_ended:
            try:
                if wanted is not None:
                    self._ask(wanted)
                self._tend()
                if self._is_due():
                    self._hand_out_from_thread()
                self._is_troubled = False
                self._sleep()
            except Exception as error:  # noqa: BLE001 (goals would wait for ever)
                self._rest_after(error)
            wanted = self._question()

    def _tend(self) -> None:
        """Do what a lane does every now and then; called in its own thread."""

    def _question(self) -> int | None:
        """Return for how many slots to ask now, ``None`` if there is nothing to ask."""
        with self._changed:
            now = monotonic()
            waiting, free = len(self._waiting), max(0, self._free(now))
            if self._slots.ask_at(now, waiting, free) > now:
                return None
            return self._slots.wanted(now, waiting, free)

    def _rest_after(self, error: Exception) -> None:
        if not self._is_troubled:
            logger.warning("goals wait: the limiter was not reached (%s)", reason_of(error))
        self._is_troubled = True
        with self._changed:
            self._changed.wait(_AFTER_A_FAILURE_SECONDS)

    def _is_due(self) -> bool:
        with self._changed:
            now = monotonic()
            return self._can_begin() and self._slots.due_at(now) <= now

    def _sleep(self) -> None:
        with self._changed:
            now = monotonic()
            self._wakes_at = max(self._acts_at(now), now + _SHORTEST_PAUSE_SECONDS)
            if not self._is_ended:
                self._changed.wait(
                    None if self._wakes_at == math.inf else max(0, self._wakes_at - now)
                )
            self._wakes_at = -math.inf

    def _ask(self, wanted: int) -> None:
        with self._changed:
            asked_at = monotonic()
            holds = self._slots.holds(asked_at)
        grant = self._limiter.ask(wanted, holds=holds)
        with self._changed:
            self._slots.granted(asked_at, monotonic(), wanted, grant)


def _nowhere(request: Any) -> None:
    raise RuntimeError("no worker has taken this lane")


def decoded(arguments: Sequence[Any], body: Any) -> Sequence[Any]:
    """Return a tracer's arguments with the decoded body of the message.

    Celery would decode it again, and refuse it where the application does not accept JSON.

    Args:
        arguments: after the third come the body, its type and its encoding.
        body: as it was decoded.
    """
    if isinstance(body, (list, tuple)):
        return (*arguments[:3], body, None, None)
    return arguments


class _Ran(NamedTuple):
    """What a pool's process sends back of a goal.

    Attributes:
        outcome: what Celery's tracer returned.
        used: whether the goal made a request.
    """

    outcome: Any
    used: bool


def _run_and_tell(trace: Callable[..., Any], *arguments: Any) -> _Ran:
    """Run a goal's task in a pool's process."""
    slot_was_used()
    return _Ran(trace(*arguments), slot_was_used())


class PoolLane(Lane):
    """A lane through any pool: each goal is handed over alone, by Celery's own way.

    Args:
        limiter: of all workers.
        pool: Celery's pool.
        call_soon: runs a function in the worker's loop; ``None`` where any thread may hand goals
            over, as in a pool of greenlets.
    """

    def __init__(
        self, limiter: Limiter, pool: Any, call_soon: Callable[[Callable[[], None]], Any] | None
    ) -> None:
        super().__init__(limiter)
        self._pool = pool
        self._call_soon = call_soon
        self._runs_inline = isinstance(pool, SoloPool)
        self._is_called = self._is_handing_out = False
        self._given: dict[int, Turn] = {}

    def hand_out(self) -> None:
        """Let goals begin whose slots have come; called in the worker's loop."""
        self._is_called = False
        if self._is_handing_out:
            return
        self._is_handing_out = True
        try:
            while (turn := self._take()) is not None:
                self._begin(turn)
                if self._runs_inline:
                    # Other messages, and what people ask of the worker, come between.
                    self._hand_out_from_thread()
                    return
        finally:
            self._is_handing_out = False
            self._wake()

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        callback: Callable[[Any], None],
        accept_callback: Callable[[int, float], None],
        error_callback: Callable[..., None],
        timeout_callback: Callable[[bool, float], None],
        **options: Any,
    ) -> Any:
        """Hand a goal to the pool; called by Celery's request, as a pool's method of this name.

        Args:
            target: Celery's tracer.
            args: its arguments; the third is the request.
            kwargs: always empty.
            callback: is given the tracer's result.
            accept_callback: is called when the pool has taken the goal.
            error_callback: is told that the goal's process was lost.
            timeout_callback: is told of a time limit.
            options: what else a pool may be told.
        """
        turn = self._given.pop(id(args[2]))
        args = decoded(args, turn.body)

        def accept(pid: int, at: float) -> None:
            accept_callback(pid, at)
            self._note_begin(turn)

        def end(result: Any) -> None:
            outcome, used = result if isinstance(result, _Ran) else (result, True)
            self._end(turn, used, callback, outcome)

        def fail(*arguments: Any, **more: Any) -> None:
            self._end(turn, True, error_callback, *arguments, **more)

        def time_out(soft: bool, seconds: float) -> None:
            if soft:
                timeout_callback(soft, seconds)
            else:
                self._end(turn, True, timeout_callback, soft, seconds)

        return self._pool.apply_async(
            _run_and_tell,
            (target, *args),
            kwargs,
            callback=end,
            accept_callback=accept,
            error_callback=fail,
            timeout_callback=time_out,
            **options,
        )

    def _begin(self, turn: Turn) -> None:
        self._given[id(turn.request.request_dict)] = turn
        try:
            self.on_request(turn.request)
        except Exception:
            # It must not be taken for a fault of the message that is just received.
            logger.exception("goal %s goes back to the queue: no pool took it", turn.request.id)
            self._finish(turn, used=False)
            turn.request.reject(requeue=True)

    def _end(
        self, turn: Turn, used: bool, then: Callable[..., None], *arguments: Any, **more: Any
    ) -> None:
        """Tell Celery that a goal has ended, and let the next one begin."""
        turn.has_begun = True
        try:
            then(*arguments, **more)
        finally:
            self._finish(turn, used=used)
            self.hand_out()

    def _taken_back(self, turns: list[Turn], *, is_lost: bool) -> list[Turn]:
        if not is_lost:
            return []
        # Celery and its pool have forgotten them. If one is on its way to a process all the same,
        # the gate admits it once.
        for turn in turns:
            self._end_of(turn, used=True)
            self._given.pop(id(turn.request.request_dict), None)
        return turns

    def _can_begin(self) -> bool:
        return not self._is_called and super()._can_begin()

    def _hand_out_from_thread(self) -> None:
        if self._call_soon is None:
            self.hand_out()
        elif not self._is_called:
            self._is_called = True
            self._call_soon(self.hand_out)

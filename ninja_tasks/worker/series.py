"""The lane through a pool of threads: many goals in a row in each thread.

Celery hands a pool one task at a time. For goals that is dear: most of what a delivery costs is to
put a thread to sleep and to wake it again. Here what the pool is given is a series: a thread that
takes goal after goal from the lane, and settles each with the question for the next. Celery's
request, its tracer, its signals and events are the same.

How many series run at once follows from how busy they are. Only one thread of a process can run
Python, and threads that contend for that cost half as much again; so where the API answers at once,
one or two series do all the work, and where it is slow, there are as many as goals may have
threads.

A series ends when no goal may begin, and after a while, so that the application's other tasks get
their turn in the pool.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, thread_time
from typing import Any, NamedTuple

from billiard.einfo import ExceptionInfo
from celery.exceptions import Reject

from ..delivery.limiter import Limiter
from ..delivery.series import Series
from ..delivery.slots import slot_was_used
from ..delivery.state import until_stored
from ..delivery.task import DeliveryTask
from .lane import Lane, Turn, decoded

__all__ = ["SeriesLane"]

logger = logging.getLogger(__name__)

_MOST_IN_A_ROW, _LONGEST_SERIES_SECONDS = 64, 1.0
_LOOK_SECONDS = 0.05
#: Shares of one processor that all series take together, while any runs: below the first more of
#: them can run, above the second too many do.
_IDLE, _CROWDED = 0.5, 0.8


class _Job(NamedTuple):
    """A goal, as Celery's request hands it to a pool.

    Attributes:
        target: Celery's tracer.
        arguments: its arguments: task, delivery id, the request, and the decoded message.
        accepted: is called when the goal's turn comes.
        done: is given the tracer's result.
    """

    target: Callable[..., Any]
    arguments: Sequence[Any]
    accepted: Callable[[int, float], None]
    done: Callable[[Any], None]

    @property
    def delivery_id(self) -> str:
        """The Celery task id."""
        return str(self.arguments[1])

    def run(self) -> Any:
        """Run the task in this thread, and return what Celery's tracer says of it."""
        self.accepted(os.getpid(), monotonic())
        return self.target(*self.arguments)


class _Unconfirmed(NamedTuple):
    """A goal that ran, and whose message is held until its fate is stored.

    Attributes:
        job: the goal.
        result: what Celery's tracer said of it.
        settlement: which of the settlements that this thread left for a next question is its own.
    """

    job: _Job
    result: Any
    settlement: int

    def end(self, result: Any = None) -> None:
        """Let Celery acknowledge the goal's message, or do what another result asks for."""
        try:
            self.job.done(result or self.result)
        except Exception:
            logger.exception("goal %s comes again: it was not ended", self.job.delivery_id)


class SeriesLane(Lane):
    """A lane through a pool of threads.

    Args:
        limiter: of all workers.
        task: ``reach_goal``.
        pool: Celery's pool of threads.
    """

    def __init__(self, limiter: Limiter, task: DeliveryTask, pool: Any) -> None:
        super().__init__(limiter)
        self._task = task
        self._pool = pool
        self._jobs = threading.local()
        self._running = 0
        self._most = 1
        self._spent: deque[float] = deque()
        self._busy_seconds = 0.0
        self._busy_from = 0.0
        self._looks_at = 0.0
        self.concurrency = self._most = pool.limit

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        callback: Callable[[Any], None],
        accept_callback: Callable[[int, float], None],
        **options: Any,
    ) -> None:
        """Take a goal's task for this thread to run; called by Celery's request in a series.

        Args:
            target: Celery's tracer.
            args: its arguments; the second is the task id.
            kwargs: always empty.
            callback: is given the tracer's result when the goal's fate is stored.
            accept_callback: is called when the task runs.
            options: what else a pool may be told; a pool of threads knows none of it.
        """
        args = decoded(args, self._jobs.body)
        self._jobs.taken = _Job(target, args, accept_callback, callback)

    def hand_out(self) -> None:
        """Start series for goals whose slots have come."""
        while self._start_series():
            pass

    def _hand_out_from_thread(self) -> None:
        self.hand_out()

    def _taken_back(self, turns: list[Turn], *, is_lost: bool) -> list[Turn]:
        for turn in turns:
            self._end_of(turn, used=False)
        return turns

    def _can_begin(self) -> bool:
        return self._running < min(self._most, self.concurrency) and super()._can_begin()

    def _start_series(self) -> bool:
        """Start a series if a goal may begin that no running one can take."""
        with self._changed:
            turn = self._take() if self._can_begin() else None
            if turn is None:
                return False
            if not self._running:
                self._busy_from = monotonic()
            self._running += 1
        try:
            self._pool.apply_async(self._series, (turn,), callback=bool)
        except RuntimeError:
            # The pool has ended. What is in the lane goes back when the connection is closed.
            logger.debug("the pool takes no more series")
            return False
        return True

    def _series(self, turn: Turn) -> None:
        """Run goals until none may begin, or others should have their turn."""
        unconfirmed: deque[_Unconfirmed] = deque()

        def acknowledge() -> None:
            while unconfirmed and unconfirmed[0].settlement <= series.confirmed:
                unconfirmed.popleft().end()

        try:
            with self._task.series(acknowledge) as series:
                for job in self._in_a_row(turn):
                    try:
                        unconfirmed.append(_Unconfirmed(job, job.run(), series.left))
                    except Exception:
                        logger.exception("goal %s comes again: its task broke off", job.delivery_id)
                    acknowledge()
                _confirm(series, unconfirmed)
        finally:
            with self._changed:
                self._running -= 1
                if not self._running:
                    self._busy_seconds += monotonic() - self._busy_from
            self.hand_out()
            self._wake()

    def _in_a_row(self, turn: Turn | None) -> Iterator[_Job]:
        """Take goals for one series, and note the processor time that each of them takes."""
        ends_at = monotonic() + _LONGEST_SERIES_SECONDS
        spent = thread_time()
        count = 0
        while turn is not None:
            job = self._job(turn)
            used = False
            if job is not None:
                slot_was_used()
                yield job
                used = slot_was_used()
            self._finish(turn, used=used)
            before, spent = spent, thread_time()
            self._spent.append(spent - before)
            count += 1
            is_over = count >= _MOST_IN_A_ROW or monotonic() >= ends_at
            turn = None if is_over or self._running > self._most else self._take(in_row=True)

    def _job(self, turn: Turn) -> _Job | None:
        """Return what Celery makes of a request, ``None`` if it was revoked or given back."""
        with self._changed:
            if turn.is_over:
                return None
            self._note_begin(turn)
        self._jobs.body, self._jobs.taken = turn.body, None
        self.on_request(turn.request)
        job: _Job | None = self._jobs.taken
        return job

    def _acts_at(self, now: float) -> float:
        acts_at = super()._acts_at(now)
        return min(acts_at, self._looks_at) if self._waiting and self._running else acts_at

    def _tend(self) -> None:
        """Adapt the number of series to how busy they were, if goals wait."""
        now = monotonic()
        if not self._waiting or now < self._looks_at:
            return
        self._looks_at = now + _LOOK_SECONDS
        share = self._share()
        if share > _CROWDED:
            self._most = max(1, self._most * 2 // 3)
        elif share < _IDLE:
            self._most = min(self.concurrency, self._most + (self._most + 1) // 2)
            self.hand_out()

    def _share(self) -> float:
        """Return which share of a processor the series took since the last look, while any ran."""
        with self._changed:
            now = monotonic()
            busy_seconds, self._busy_seconds = self._busy_seconds, 0.0
            if self._running:
                busy_seconds += now - self._busy_from
                self._busy_from = now
        spent = sum(self._spent)
        self._spent.clear()
        return spent / busy_seconds if busy_seconds else 0.0


def _confirm(series: Series, unconfirmed: deque[_Unconfirmed]) -> None:
    """Wait until the last goals' fates are stored; if the worker ends before, give them back."""
    if not unconfirmed:
        return
    given_back = None
    try:
        until_stored(series.catch_up, unconfirmed[-1].job.delivery_id)
    except Reject:
        given_back = 1, ExceptionInfo(internal=True), 0.0
    while unconfirmed:
        unconfirmed.popleft().end(given_back)

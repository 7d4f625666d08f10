"""The limit as a whole, in simulated time: workers, their pools, the limiter and the API.

What a worker does with its slots is the package's own code; the limiter is the model to which the
script in Redis is compared.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import LimitModel

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery.slots import Slots

_SHORTEST_PAUSE = 0.003


@dataclass
class Api:
    """What goals meet: all times in seconds."""

    latency: Callable[[], float]
    sent: list[float] = field(default_factory=list)


class Clock:
    """Runs what is due, one after the other."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(time, self.now), next(self._number), action))

    def run(self, until: Callable[[], bool]) -> None:
        while self._due and not until():
            self.now, _number, action = heapq.heappop(self._due)
            action()


class Worker:
    """A pool of so many threads or processes, with a lane before it."""

    def __init__(
        self,
        name: str,
        threads: int,
        rate: RateLimit | None,
        clock: Clock,
        limiter: LimitModel,
        queue: deque[int],
        api: Api,
        delay: Callable[[], float],
    ) -> None:
        self.name, self.rate, self.started = name, rate, clock.now
        self.slots = Slots()
        self.waiting = self.at_work = 0
        self._threads, self._clock, self._limiter = threads, clock, limiter
        self._queue, self._api, self._delay = queue, api, delay
        self._asks = False
        self._wakes_at = math.inf

    @property
    def _free(self) -> int:
        return self._threads - self.at_work

    def look(self) -> None:
        """Do all that the lane does at this time."""
        now = self._clock.now
        self._fetch()
        while self.waiting and self._free and self.slots.take(now) is not None:
            self.waiting -= 1
            self.at_work += 1
            self._clock.at(now + self._delay(), self._send)
        self._fetch()
        if not self._asks and self.slots.ask_at(now, self.waiting, self._free) <= now:
            self._ask()
        self._sleep()

    def _fetch(self) -> None:
        rate = self.slots.rate
        most = 4 if rate is None else max(4, math.ceil(rate.goals / rate.seconds))
        while self._queue and self.waiting < min(most, 4 * self._threads):
            self._queue.popleft()
            self.waiting += 1

    def _send(self) -> None:
        self._api.sent.append(self._clock.now)
        self._clock.at(self._clock.now + self._api.latency(), self._finish)

    def _finish(self) -> None:
        self.at_work -= 1
        self.look()

    def _ask(self) -> None:
        now, self._asks = self._clock.now, True
        wanted = self.slots.wanted(now, self.waiting, self._free)
        holds = self.slots.holds(now)

        def reach() -> None:
            grant = self._limiter.ask(
                self.name,
                1000 * self.started,
                self.rate,
                1000 * self._clock.now,
                wanted,
                holds=holds,
            )

            def answer() -> None:
                self._asks = False
                self.slots.granted(now, self._clock.now, wanted, grant)
                self.look()

            self._clock.at(self._clock.now + self._delay(), answer)

        self._clock.at(now + self._delay(), reach)

    def _sleep(self) -> None:
        now = self._clock.now
        acts_at = self.slots.ask_at(now, self.waiting, self._free)
        if self.waiting and self._free:
            acts_at = min(acts_at, self.slots.due_at(now))
        if acts_at == math.inf or self._asks:
            return
        acts_at = max(acts_at, now + _SHORTEST_PAUSE)
        if acts_at < self._wakes_at or self._wakes_at <= now:
            self._wakes_at = acts_at
            self._clock.at(acts_at, self._wake)

    def _wake(self) -> None:
        if self._clock.now >= self._wakes_at:
            self._wakes_at = math.inf
        self.look()


def drained(
    rate: RateLimit,
    *,
    workers: int,
    threads: int,
    goals: int,
    latency: Callable[[], float],
    delay: Callable[[], float],
    arrivals_seconds: float = 0.0,
) -> list[float]:
    """Return when each goal was sent."""
    clock, limiter, queue, api = Clock(), LimitModel(), deque[int](), Api(latency)
    fleet = [
        Worker(str(number), threads, rate, clock, limiter, queue, api, delay)
        for number in range(workers)
    ]

    def arrive() -> None:
        queue.append(0)
        fleet.append(fleet.pop(0))
        for worker in fleet:
            worker.look()

    for number in range(goals):
        if arrivals_seconds:
            clock.at(arrivals_seconds * number / goals, arrive)
        else:
            queue.append(number)
    for number, worker in enumerate(tuple(fleet)):
        clock.at(0.01 * number, worker.look)
    clock.run(lambda: len(api.sent) == goals)
    assert len(api.sent) == goals
    return sorted(api.sent)


def fullest_second(times: list[float]) -> int:
    most = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def check(
    rate: RateLimit, times: list[float], arrivals_seconds: float = 0.0, last_seconds: float = 0.0
) -> None:
    """Check that the whole limit is used, and no more.

    Args:
        rate: the limit.
        times: when each goal was sent.
        arrivals_seconds: how long goals came.
        last_seconds: how long the last ones may wait for a request that is under way.
    """
    ideal = len(times) * rate.seconds / rate.goals
    assert times[-1] - times[0] <= 1.05 * max(ideal, arrivals_seconds) + 0.1 + last_seconds
    assert fullest_second(times) <= math.ceil(rate.goals / rate.seconds) + rate.burst


MATRIX = [
    (RateLimit(60, 60), 16, 2),
    (RateLimit(5, 1), 32, 1),
    (RateLimit(50, 1), 256, 1),
    (RateLimit(50, 1), 32, 6),
    (RateLimit(20, 1), 12, 2),
    (RateLimit(1000, 1), 32, 1),
    (RateLimit(1000, 1), 32, 8),
    (RateLimit(10, 1), 512, 4),
]


@pytest.mark.parametrize(("rate", "threads", "workers"), MATRIX, ids=str)
def test_a_backlog_is_drained_at_the_limit_and_no_second_exceeds_it(
    rate: RateLimit, threads: int, workers: int
) -> None:
    chance = random.Random(1)  # noqa: S311
    goals = min(2000, max(40, 6 * rate.goals // rate.seconds))
    times = drained(
        rate,
        workers=workers,
        threads=threads,
        goals=goals,
        latency=lambda: chance.uniform(0.001, 0.02),
        delay=lambda: chance.uniform(0.0005, 0.004),
    )
    check(rate, times)


@settings(max_examples=100, deadline=None)
@given(
    rate=st.builds(RateLimit, st.integers(2, 150), st.just(1)),
    workers=st.integers(1, 8),
    spare=st.floats(1.5, 20),
    milliseconds=st.floats(1, 3000),
    arrivals_share=st.floats(0, 1.5),
    delay=st.floats(0.1, 4),
    seed=st.integers(0, 1000),
)
def test_any_fleet_that_is_fast_enough_uses_the_whole_limit_and_never_more(
    rate: RateLimit,
    workers: int,
    spare: float,
    milliseconds: float,
    arrivals_share: float,
    delay: float,
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    threads = math.ceil(spare * rate.goals * (milliseconds + 3 * delay) / 1000 / workers) + 1
    goals = max(40, rate.goals * 4)
    arrivals_seconds = arrivals_share * goals / rate.goals
    times = drained(
        rate,
        workers=workers,
        threads=threads,
        goals=goals,
        latency=lambda: chance.uniform(0.5, 1) * milliseconds / 1000,
        delay=lambda: chance.uniform(0.2, 1) * delay / 1000,
        arrivals_seconds=arrivals_seconds,
    )
    check(rate, times, arrivals_seconds, last_seconds=milliseconds / 1000)

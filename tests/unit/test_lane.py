"""The lanes: goals begin when they have a slot and the pool can take them; in threads, in a row."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from celery.concurrency.thread import TaskPool
from celery.exceptions import Reject
from stack import wait_until

from ninja_tasks.config import RateLimit
from ninja_tasks.delivery import stopping
from ninja_tasks.delivery.limiter import Grant
from ninja_tasks.delivery.slots import use_slot
from ninja_tasks.worker.lane import PoolLane
from ninja_tasks.worker.series import SeriesLane

THREADS = 8


class Series:
    """Stands in for what a thread says to Redis: what it left is confirmed when it asks."""

    def __init__(self, on_confirmed: Callable[[], None], *, is_away: bool) -> None:
        self.left = 0
        self.confirmed = 0
        self._on_confirmed = on_confirmed
        self._is_away = is_away

    def leave(self) -> None:
        self.left += 1

    def ask(self) -> None:
        self.confirmed = self.left
        self._on_confirmed()

    def catch_up(self) -> None:
        if self._is_away:
            raise redis.ConnectionError
        self.ask()


class Limiter:
    """Stands in for the limiter: without a limit, or with slots at given times."""

    def __init__(self, rate: RateLimit | None = None) -> None:
        self.rate = rate
        self.is_away = False
        self.asked: list[int] = []
        self._next_at = 0.0

    def ask(self, wanted: int, *, holds: bool) -> Grant:
        if self.is_away:
            raise redis.ConnectionError
        self.asked.append(wanted)
        if self.rate is None:
            return Grant(None, 0, 0.0)
        now = time.monotonic()
        first = max(self._next_at, now)
        self._next_at = first + wanted * self.rate.interval_milliseconds / 1000
        return Grant(self.rate, wanted, first - now)


class Rig:
    """A lane through a real pool of threads, and what its goals did."""

    def __init__(self, threads: int, rate: RateLimit | None = None) -> None:
        self.threads = threading.local()
        self.is_away = False
        self.events: list[tuple[str, str]] = []
        self.results: dict[str, Any] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.pool = TaskPool(limit=threads)
        self.pool.start()
        self.limiter = Limiter(rate)
        self.lane = SeriesLane(self.limiter, self, self.pool)  # type: ignore[arg-type]
        self.lane.prefetch = 4 * threads
        self.lane.on_request = lambda request: request()
        self.lane.start()

    @contextmanager
    def series(self, on_confirmed: Callable[[], None]) -> Iterator[Series]:
        self.threads.series = Series(on_confirmed, is_away=self.is_away)
        yield self.threads.series

    def put(self, name: str, work: Callable[[Series], Any] = Series.leave) -> None:
        def run(_task: str, delivery_id: str, _request: Any) -> tuple[int, None, float]:
            with self.lock:
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                self.events.append(("runs", delivery_id))
                work(self.threads.series)
            finally:
                with self.lock:
                    self.at_once -= 1
            return 0, None, 0.0

        def done(result: Any) -> None:
            self.events.append(("done", name))
            self.results[name] = result

        self.lane.put(
            lambda: self.lane.apply_async(
                run, ("reach_goal", name, {}), callback=done, accept_callback=lambda pid, at: None
            )
        )

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.results) >= count, f"{count} goals")

    def stop(self) -> None:
        self.lane.end()
        self.pool.stop()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(THREADS)
    yield made
    made.stop()


@pytest.fixture
def narrow() -> Iterator[Rig]:
    made = Rig(1)
    yield made
    made.stop()


def ask_and_leave(series: Series) -> None:
    series.ask()
    series.leave()


def test_a_goal_is_done_when_the_next_one_of_its_series_has_asked(narrow: Rig) -> None:
    first_runs, all_wait = threading.Event(), threading.Event()

    def block(series: Series) -> None:
        first_runs.set()
        all_wait.wait(5)
        ask_and_leave(series)

    narrow.put("0", block)
    first_runs.wait(5)
    narrow.put("1", ask_and_leave)
    narrow.put("2", ask_and_leave)
    all_wait.set()
    narrow.wait_for(3)
    assert narrow.events == [
        ("runs", "0"),
        ("runs", "1"),
        ("done", "0"),
        ("runs", "2"),
        ("done", "1"),
        ("done", "2"),
    ]


def test_a_goal_that_asks_nothing_does_not_make_the_one_before_it_done(narrow: Rig) -> None:
    first_runs, all_wait = threading.Event(), threading.Event()

    def block(series: Series) -> None:
        first_runs.set()
        all_wait.wait(5)
        ask_and_leave(series)

    narrow.put("0", block)
    first_runs.wait(5)
    narrow.put("silent", lambda series: None)
    narrow.put("2", ask_and_leave)
    all_wait.set()
    narrow.wait_for(3)
    order = [name for what, name in narrow.events if what == "done"]
    assert order == ["0", "silent", "2"]
    assert narrow.events.index(("done", "0")) > narrow.events.index(("runs", "2"))


def test_the_last_goal_of_a_series_is_done_without_a_next_one(rig: Rig) -> None:
    rig.put("0")
    rig.wait_for(1)
    assert rig.results == {"0": (0, None, 0.0)}


def test_a_worker_that_ends_while_redis_is_away_gives_the_last_goal_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_FLAG", b"\x01")
    rig.is_away = True
    rig.put("0")
    rig.wait_for(1)
    failed, report, _seconds = rig.results["0"]
    assert failed
    # As Celery's request takes it out.
    rejection = report.exception.exc
    assert isinstance(rejection, Reject)
    assert rejection.requeue


def test_a_goal_whose_task_breaks_off_stops_no_other(
    narrow: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def break_off(series: Series) -> None:
        raise RuntimeError

    narrow.put("0", break_off)
    narrow.put("1")
    narrow.wait_for(1)
    assert "1" in narrow.results
    assert "goal 0 comes again" in caplog.text


def test_goals_that_wait_for_the_api_run_in_all_threads(rig: Rig) -> None:
    for number in range(6 * THREADS):
        rig.put(str(number), lambda series: time.sleep(0.05))
    rig.wait_for(6 * THREADS)
    assert rig.most_at_once == THREADS


def test_goals_run_in_one_thread_where_series_are_crowded_and_in_all_where_they_are_idle(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 0.95
    monkeypatch.setattr(SeriesLane, "_share", lambda lane: share)
    for number in range(400):
        rig.put(str(number), lambda series: time.sleep(0.005))
    rig.wait_for(320)
    rig.most_at_once = 0
    rig.wait_for(400)
    assert rig.most_at_once == 1
    share = 0.1
    for number in range(400, 800):
        rig.put(str(number), lambda series: time.sleep(0.02))
    rig.wait_for(800)
    assert rig.most_at_once == THREADS


@pytest.mark.parametrize("waits", [True, False])
def test_the_share_of_series_is_high_only_if_they_do_not_wait(narrow: Rig, waits: bool) -> None:
    def compute(series: Series) -> None:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass

    work = (lambda series: time.sleep(0.02)) if waits else compute
    narrow.lane._looks_at = math.inf
    for number in range(60):
        narrow.put(str(number), work)
    narrow.wait_for(60)
    share = narrow.lane._share()
    # On a machine as busy as any.
    assert share < 0.05 if waits else 0.05 < share <= 1.05
    assert narrow.lane._share() == 0


def test_other_tasks_of_the_pool_get_their_turn_while_goals_wait(narrow: Rig) -> None:
    turn = threading.Event()
    for number in range(200):
        narrow.put(str(number), lambda series: time.sleep(0.002))
    narrow.pool.apply_async(turn.set, callback=bool)
    wait_until(turn.is_set, "the other task's turn")
    assert len(narrow.results) < 200
    narrow.wait_for(200)


def test_goals_left_in_a_pool_that_has_ended_are_not_run(rig: Rig) -> None:
    rig.pool.stop()
    with suppress(RuntimeError):
        rig.put("0")
    assert not rig.events


# The limit


@pytest.fixture
def limited() -> Iterator[Rig]:
    made = Rig(THREADS, RateLimit(50, 1))
    yield made
    made.stop()


def test_goals_go_one_after_the_other_at_the_limit_and_no_thread_waits_for_it(
    limited: Rig,
) -> None:
    began: list[float] = []

    def work(series: Series) -> None:
        began.append(time.monotonic())
        use_slot()

    for number in range(30):
        limited.put(str(number), work)
    limited.wait_for(30)
    assert limited.most_at_once < THREADS
    assert began[-1] - began[0] >= 29 / 50 - 0.08
    assert sum(limited.limiter.asked) >= 30


def test_a_slot_that_a_goal_did_not_need_goes_to_the_next_one(limited: Rig) -> None:
    for number in range(200):
        limited.put(str(number), lambda series: None)
    limited.wait_for(200)
    assert sum(limited.limiter.asked) < 60


def test_goals_wait_while_the_limiter_is_away_and_go_when_it_is_back(
    limited: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    limited.limiter.is_away = True
    limited.put("0")
    wait_until(lambda: "the limiter was not reached" in caplog.text, "the line in the log")
    assert not limited.events
    limited.limiter.is_away = False
    limited.wait_for(1)


def test_what_has_not_begun_is_taken_out_at_once_in_its_order(limited: Rig) -> None:
    started = threading.Event()

    def work(series: Series) -> None:
        use_slot()
        started.set()

    for number in range(30):
        limited.put(str(number), work)
    started.wait(5)
    out = limited.lane.empty(is_lost=False)
    assert 0 < len(out) < 30
    assert limited.lane.waiting == 0
    limited.wait_for(30 - len(out))
    limited.put("last")
    wait_until(lambda: "last" in limited.results, "the lane to go on")
    assert len(limited.results) == 31 - len(out)


def test_room_follows_the_limit_and_what_is_fetched(limited: Rig) -> None:
    limited.lane.prefetch = 128
    limited.put("0", lambda series: time.sleep(0.2))
    wait_until(lambda: limited.lane.room()[:2] == (50, 50), "the first goal to begin")
    for number in range(60):
        limited.put(str(number), lambda series: use_slot())
    assert limited.lane.room().free == 0


def test_one_goal_at_a_time_tries_an_api_that_failed(rig: Rig) -> None:
    rig.lane.try_one(True)
    for number in range(8):
        rig.put(str(number), lambda series: time.sleep(0.02))
    rig.wait_for(8)
    assert rig.most_at_once == 1
    rig.lane.try_one(False)
    for number in range(8, 40):
        rig.put(str(number), lambda series: time.sleep(0.05))
    rig.wait_for(40)
    assert rig.most_at_once > 1


def test_goals_leave_threads_to_other_tasks(rig: Rig) -> None:
    rig.lane.concurrency = THREADS // 2
    for number in range(6 * THREADS):
        rig.put(str(number), lambda series: time.sleep(0.02))
    rig.wait_for(6 * THREADS)
    assert rig.most_at_once == THREADS // 2


# Any pool


class Request:
    """Stands in for Celery's."""

    def __init__(self, lane: PoolLane, done: Callable[[Any], None]) -> None:
        self.request_dict: dict[str, Any] = {}
        self._lane = lane
        self._done = done

    def run(self) -> None:
        self._lane.apply_async(
            lambda *arguments: (0, "delivered", 0.0),
            ("reach_goal", "id", self.request_dict),
            callback=self._done,
            accept_callback=lambda pid, at: None,
            error_callback=self._done,
            timeout_callback=lambda soft, seconds: self._done(soft),
        )


class Pool:
    """Stands in for a pool: its goals run when a test says so."""

    def __init__(self) -> None:
        self.limit = 2
        self.given: list[dict[str, Any]] = []

    def apply_async(self, target: Any, args: Any, kwargs: Any = None, **options: Any) -> None:
        self.given.append({"run": lambda: target(*args), **options})

    def accept(self, number: int) -> None:
        self.given[number]["accept_callback"](1, 0.0)


@pytest.fixture
def pool_lane() -> Iterator[tuple[PoolLane, Pool]]:
    pool = Pool()
    lane = PoolLane(Limiter(), pool, None)  # type: ignore[arg-type]
    lane.prefetch = 8
    lane.concurrency = 2
    lane.on_request = Request.run
    lane.start()
    yield lane, pool
    lane.end()


def test_a_pool_is_given_as_many_goals_as_it_may_have_and_the_next_when_one_has_ended(
    pool_lane: tuple[PoolLane, Pool],
) -> None:
    lane, pool = pool_lane
    results: list[Any] = []
    for _ in range(5):
        lane.put(Request(lane, results.append))
    wait_until(lambda: len(pool.given) == 2, "two goals to begin")
    assert lane.waiting == 3
    first = pool.given[0]
    first["accept_callback"](1, 0.0)
    first["callback"](first["run"]())
    assert results == [(0, "delivered", 0.0)]
    assert len(pool.given) == 3
    pool.accept(1)
    pool.given[1]["error_callback"]("lost")
    assert len(pool.given) == 4
    pool.given[2]["timeout_callback"](True, 1.0)
    assert len(pool.given) == 4
    pool.given[2]["timeout_callback"](False, 1.0)
    assert len(pool.given) == 5


def test_goals_that_the_pool_has_not_begun_stop_the_next_ones(
    pool_lane: tuple[PoolLane, Pool],
) -> None:
    lane, pool = pool_lane
    lane.concurrency = 4
    lane.put(Request(lane, bool))
    wait_until(lambda: pool.given, "a goal to begin")
    time.sleep(0.1)  # so long has it not begun
    lane.put(Request(lane, bool))
    assert len(pool.given) == 1
    pool.accept(0)
    wait_until(lambda: len(pool.given) == 2, "the next goal to begin")

"""The API is away for a while, with a backlog: nothing is lost, and waiting costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fleet import size
from stack import wait_until

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(300, 5000)
OUTAGE_SECONDS = size(10, 30)
CONCURRENCY = {"threads": 4, "prefork": 2}
RATE = 50
THRESHOLD = 5


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_outage_costs_no_goal_no_attempts_and_hardly_any_cpu(
    fleet: Fleet, pool: str, measured: Callable[..., None], fault: Callable[..., None]
) -> None:
    workers = fleet.start(2, pool=pool, concurrency=CONCURRENCY[pool])
    before = warm_up(fleet, pool)
    fleet.api.stop()
    ids = fleet.enqueue(GOALS)
    fleet.wait_for(lambda now: now.breaker != "closed", "the breaker to open")
    wait_until(
        lambda: all("not taking goals" in worker.log for worker in workers), "the workers to stop"
    )
    began, cpu = time.monotonic(), [worker.cpu_seconds() for worker in workers]
    memory = [worker.memory_megabytes() for worker in workers]
    wait_until(lambda: time.monotonic() >= began + OUTAGE_SECONDS, "the outage", OUTAGE_SECONDS + 5)
    took = time.monotonic() - began
    cores = [
        (worker.cpu_seconds() - before) / took for worker, before in zip(workers, cpu, strict=True)
    ]
    grown = [
        worker.memory_megabytes() - before for worker, before in zip(workers, memory, strict=True)
    ]
    at_end = fleet.numbers()
    assert at_end.queued + at_end.parked >= GOALS - 20
    fleet.api.start()
    back = time.monotonic()
    fleet.wait_for(
        lambda now: now.delivered == len(before) + GOALS, "every delivery", 90 + 1.2 * GOALS / RATE
    )
    drained = time.monotonic() - back
    ledger = fleet.ledger()
    assert {name for name, words in ledger.items() if words[0] == "d"} == {*before, *ids}
    numbers = fleet.numbers()
    spent = numbers.attempts - len(before) - GOALS
    most = max(int(words[2]) for words in ledger.values())
    fates = fleet.wait_for_fates(ids)
    fault(f"API down for {OUTAGE_SECONDS} s ({pool})", fates, drained)
    fleet.stop()
    events = fleet.kent.all_events()
    measured(
        pool=pool,
        cores=[round(one, 3) for one in cores],
        megabytes_grown=[round(one, 1) for one in grown],
        failed_attempts=spent,
        most_attempts_of_one_goal=most,
        seconds_to_drain=round(drained, 1),
        seconds_at_the_limit=GOALS / RATE,
        events=[event["message"] for event in events],
        dead=numbers.dead,
    )
    assert numbers.dead == 0
    assert len(fleet.api.delivered) == len(before) + GOALS
    assert max(cores) <= 0.2
    # The first failures load, once in each process, what it takes to show them.
    assert max(grown) < 45
    # What opened it, what was under way at that moment, and one probe for each pause.
    assert spent <= THRESHOLD + 2 * 4 + 5
    assert len(events) <= 3


def warm_up(fleet: Fleet, pool: str) -> list[str]:
    """Let every process deliver something: its first goal takes memory that stays."""
    name = {"prefork": "ForkPoolWorker-{}]", "threads": "MainProcess]"}[pool]
    processes = {name.format(number + 1) for number in range(CONCURRENCY[pool])}
    ids: list[str] = []
    # Else one process may do all the work.
    fleet.api.default = Answer(delay_seconds=0.05)

    def all_warm() -> bool:
        ids.extend(fleet.enqueue(20))
        fleet.wait_for(lambda now: now.delivered == len(ids), "the workers to be warm")
        return all(
            any(f"{process} Task ninja" in line and "succeeded" in line for line in lines)
            for lines in (worker.log.splitlines() for worker in fleet.workers)
            for process in processes
        )

    wait_until(all_warm, "every process to deliver a goal", 60)
    fleet.api.default = Answer()
    return ids

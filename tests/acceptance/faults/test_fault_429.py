"""The API asks for patience once: all workers wait."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet


def test_one_429_silences_all_workers_and_spends_no_attempt(
    fleet: Fleet, measured: Callable[..., None], fault: Callable[..., None]
) -> None:
    fleet.start(3, concurrency=4, rate_limit="50/s")
    ids = fleet.enqueue(300)
    fleet.api.wait_for(100)
    fleet.api.script(Answer(429, retry_after=3))
    fleet.wait_for(lambda now: now.delivered == 300, "every delivery")
    times = sorted(one.monotonic for one in fleet.api.requests)
    gaps = [after - before for before, after in pairwise(times)]
    ledger = fleet.ledger()
    attempts = sorted(int(words[2]) for words in ledger.values())
    measured(longest_silence=round(max(gaps), 2), most_attempts=attempts[-1])
    assert 2.5 <= max(gaps) <= 5
    assert fleet.numbers().attempts == 301
    assert attempts[-2:] == [1, 2]
    fault("one 429 over three workers", fleet.wait_for_fates(ids), max(gaps))

"""A router between a worker and the API forgets connections that are idle for two seconds."""

from __future__ import annotations

import time

import pytest
from dropping_proxy import ForgetfulProxy
from fleet import Fleet, size


@pytest.mark.parametrize("resets", [False, True], ids=["swallows", "resets"])
def test_no_goal_is_in_doubt_after_a_pause(fleet: Fleet, resets: bool) -> None:
    with ForgetfulProxy(fleet.api.port, 2, resets=resets) as proxy:
        fleet.settings["NINJA_API_URL"] = f"http://127.0.0.1:{proxy.port}"
        fleet.start(concurrency=8, read_timeout_seconds="2", rate_limit="none")
        for turn in range(1, size(3, 8)):
            fleet.enqueue(40)
            fleet.api.wait_for(40 * turn, 20)
            fleet.wait_for(lambda now, sent=40 * turn: now.delivered == sent, "deliveries")
            # A pause as in a quiet hour is what this is about.
            time.sleep(2.3)
        numbers = fleet.numbers()
    assert (numbers.unknown, numbers.dead, numbers.attempts) == (0, 0, numbers.delivered)
    assert proxy.misses == 0

"""An API whose answer never comes to its end."""

from __future__ import annotations

import time

import pytest
from fleet import Fleet
from odd_server import server, trickling
from stack import wait_until


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_ends_although_an_answer_trickles(fleet: Fleet, pool: str) -> None:
    asked = []

    def handle(peer: object) -> None:
        asked.append(peer)
        trickling(b"", b"H")(peer)  # type: ignore[arg-type]

    with server(handle) as url:
        fleet.settings["NINJA_API_URL"] = url
        bounds = {"connect_timeout_seconds": "0.5", "read_timeout_seconds": "1"}
        (worker,) = fleet.start(pool=pool, concurrency=2, **bounds)
        (name,) = fleet.enqueue(1)
        wait_until(lambda: asked, "the request")
        began = time.monotonic()
        fleet.stop()
        assert time.monotonic() - began < 6.5 + 3, worker.log
    assert fleet.ledger()[name][1:5] == ["1", "1", "1", "0"]
    assert fleet.numbers().parked == 1

"""Redis answers and refuses writes: replicas are missing, its disk or its memory is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from fleet import size
from stack import wait_until

from ninja_tasks.testing import Answer

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(60, 400)
REFUSED_SECONDS = float(size(4, 15))


@contextmanager
def without_replicas(client: redis.Redis) -> Iterator[str]:
    client.config_set("min-replicas-to-write", 1)
    yield "NOREPLICAS"
    client.config_set("min-replicas-to-write", 0)


@contextmanager
def without_disk(client: redis.Redis) -> Iterator[str]:
    # A directory stands where the snapshot should go.
    directory = Path(str(client.config_get("dir")["dir"]), "dump.rdb")
    directory.mkdir(exist_ok=True)
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_until(
        lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
        "a failed snapshot",
    )
    yield "MISCONF"
    client.config_set("save", "")


@contextmanager
def without_memory(client: redis.Redis) -> Iterator[str]:
    client.config_set("maxmemory", 1)
    yield "OOM"
    client.config_set("maxmemory", 0)


@pytest.mark.timeout(900)
def test_refused_writes_are_waited_out_and_end_no_worker(
    fleet: Fleet, fault: Callable[..., None]
) -> None:
    fleet.api.default = Answer(delay_seconds=0.1)
    settings = {"rate_limit": "none", "concurrency": 4}
    fleet.start(pool="threads", **settings)
    fleet.start(pool="prefork", **settings)
    ids: list[str] = []
    for refuse in (without_replicas, without_disk, without_memory):
        ids += fleet.enqueue(GOALS)
        delivered = fleet.numbers().delivered
        fleet.wait_for(lambda now, before=delivered: now.delivered > before, "deliveries")
        with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
            with refuse(client) as word:
                began = time.time()
                if word == "NOREPLICAS":
                    # One that starts meanwhile.
                    fleet.start(pool="threads", **settings)
                left = REFUSED_SECONDS - (time.time() - began)
                threading.Event().wait(max(0.0, left))
            lifted = time.time()
            assert all(worker.is_running for worker in fleet.workers), word
        fates = fleet.wait_for_fates(ids)
        slowest = max(fates.delivered_at.values()) - lifted
        fault(f"Redis refuses writes: {word}", fates, slowest)
        assert fates.lost == fates.unmarked == 0

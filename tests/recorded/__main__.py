"""Records what this version leaves in Redis: ``PYTHONPATH=tests python -m recorded``.

A real worker meets goals of every kind. What it wrote is kept in a folder that has the name of the
version, and all later versions must read it (``tests/integration/test_other_versions.py``).
Run it before each release.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
from fleet import GOAL_ID, Fleet, running_fleet
from malformed import CASES, Parts
from stack import wait_until

from ninja_tasks import enqueue_goal
from ninja_tasks.dead_letters.replay import replay
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.parking import Parking
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import Answer

_TASK, _QUEUE = "ninja_tasks.reach_goal", "ninja_tasks"


def _unexpected(delivery_id: str, error: Exception, raw: bytes) -> None:
    raise error


def _customer(fleet: Fleet, *answers: Any, then: Any = None) -> str:
    """Return the id of a customer whose goals the API answers in this way."""
    customer = str(uuid.uuid4())
    wanted = f'"{customer}"'.encode()
    fleet.api.script_for(lambda one: wanted in one.raw, *answers, then=then)
    return customer


def _send(fleet: Fleet, body: Any, **options: Any) -> str:
    """Send a goal as an application does that has not installed this package."""
    sent = fleet.app.send_task(_TASK, args=[body], queue=_QUEUE, argsrepr="<goal>", **options)
    return str(sent.id)


def _wire(customer: str, **more: Any) -> dict[str, Any]:
    return {"GoalId": GOAL_ID, "CustomerId": customer, **more}


def _record(fleet: Fleet, client: redis.Redis) -> dict[str, Any]:
    keys = Keys("ninja:")
    store, parking = DeadLetterStore(client, keys), Parking(client, keys)

    def goal(customer: str, **more: Any) -> str:
        return enqueue_goal(goal_id=GOAL_ID, customer_id=customer, app=fleet.app, **more)

    def letters(count: int) -> dict[str, Any]:
        wait_until(lambda: store.count() == count, f"{count} letters, not {fleet.letters()}", 60)
        return client.hgetall(keys.letters)

    (worker,) = fleet.start(
        read_timeout_seconds="1", breaker_threshold="1000", max_attempts="2", rate_limit="none"
    )
    full = {"ip": "203.0.113.7", "user_params": {"tier": "gold"}, "revenue": 12350}
    goal(_customer(fleet), key="delivered", **full)
    goal(_customer(fleet, 500), key="delivered-after-doubt")
    goal(_customer(fleet, Answer(404, body=b'{"error": "no such goal"}')), key="rejected", **full)
    goal(_customer(fleet, then=503), key="exhausted")
    goal(_customer(fleet, 500), key="unknown", on_unknown="dead_letter")
    _send(fleet, _wire("no-guid", Ip="203.0.113.7"))
    _send(fleet, _wire("no-guid", CreatedOnUtc="2026-01-01 00:00:00.000001"))
    _send(fleet, _wire(_customer(fleet)), expires=datetime.now(UTC) - timedelta(hours=1))
    broken = Parts()
    CASES["a body that is not JSON"](broken)
    client.lpush(_QUEUE, json.dumps(broken.packed()))
    letters(7)
    replayed = _customer(fleet, then=404)
    letter = goal(replayed, key="replayed")
    letters(8)
    stored = store.get(letter)
    assert stored is not None
    replay(fleet.app, store, [stored])
    wait_until(
        lambda: any('"replays":1' in one for one in letters(8).values()),
        "the replayed goal to die again",
    )
    recorded_letters = letters(8)

    _send(fleet, _wire(_customer(fleet)), countdown=3600)
    _send(fleet, _wire(_customer(fleet)), countdown=3600, priority=5)
    goal(_customer(fleet, then=503), key="parked-503")
    goal(_customer(fleet, then=500), key="parked-500", on_unknown="retry", **full)
    parked = wait_until(
        lambda: (
            found if len(found := client.hgetall(keys.parked)) == 4 else None  # type: ignore[arg-type]
        ),
        "four parked goals",
    )
    worker.kill()
    fleet.workers.clear()
    ledger = {name: client.get(name) for name in client.scan_iter("ninja:l:*")}
    reports = client.hgetall(keys.reports)

    client.delete(_QUEUE, keys.parked, keys.parked_times, keys.parked_since)
    for name, document in parked.items():
        client.hset(keys.parked, name, document)
        client.zadd(keys.parked_times, {name: 1000})
    parking.move_due(fleet.app, 10, _unexpected)
    goal(str(uuid.uuid4()), key="queued", on_unknown="dead_letter", **full)
    _send(fleet, _wire(str(uuid.uuid4())))
    stored = store.get(letter)
    assert stored is not None
    replay(fleet.app, store, [stored])
    queued = [
        message for name in client.scan_iter(f"{_QUEUE}*") for message in _list_of(client, name)
    ]
    return {
        "letters": recorded_letters,
        "parked": parked,
        "ledger": ledger,
        "reports": reports,
        "queue": queued,
    }


def _list_of(client: redis.Redis, name: str) -> list[str]:
    return list(client.lrange(name, 0, -1)) if client.type(name) == "list" else []


def main() -> None:
    folder = Path(__file__).parent / version("ninja-tasks")
    folder.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_fleet(Path(directory)) as fleet,
        redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client,
    ):
        for name, found in _record(fleet, client).items():
            text = json.dumps(found, indent=1, ensure_ascii=False)
            (folder / f"{name}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()

"""A worker of this version goes on with what one of an earlier version has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from stack import wait_until

from ninja_tasks.dead_letters.replay import ReplayResult, replay
from ninja_tasks.dead_letters.store import DeadLetterStore
from ninja_tasks.delivery.state import Keys

if TYPE_CHECKING:
    from fleet import Fleet

RECORDED = Path(__file__).parents[1] / "recorded"
VERSIONS = sorted(folder.name for folder in RECORDED.iterdir() if (folder / "queue.json").exists())


def restore(client: redis.Redis, recorded: dict[str, Any]) -> set[str]:
    """Put back what was in Redis, parked goals due at once, and return the ids of open goals."""
    queue = [json.loads(text) for text in recorded["queue"]]
    for name, page in recorded["ledger"].items():
        client.set(name, page)
    for delivery_id, document in recorded["letters"].items():
        client.hset("ninja:dead", delivery_id, document)
        client.zadd("ninja:dead:times", {delivery_id: 1})
    client.hset("ninja:reports", mapping=recorded["reports"])
    for delivery_id, document in recorded["parked"].items():
        client.hset("ninja:parked", delivery_id, document)
        client.zadd("ninja:parked:due", {delivery_id: 1000})
        client.zadd("ninja:parked:since", {delivery_id: 1000})
    for text, message in zip(recorded["queue"], queue, strict=True):
        if message["headers"]["id"] not in recorded["letters"]:
            client.lpush("ninja_tasks", text)
    return {message["headers"]["id"] for message in queue} - recorded["letters"].keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_earlier_version_left_is_delivered(fleet: Fleet, version: str) -> None:
    recorded = {
        file.stem: json.loads(file.read_text()) for file in (RECORDED / version).glob("*.json")
    }
    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        goals = restore(client, recorded)
        fleet.start(max_age_seconds="315360000")
        fates = fleet.wait_for_fates(goals)
        assert (fates.lost, fates.duplicated) == (0, 0)
        assert goals == {one.delivery_id for one in fleet.api.delivered}
        assert fleet.letters().keys() == recorded["letters"].keys()
        doubtful = [one for one in recorded["parked"] if '"doubtful":1' in recorded["parked"][one]]
        assert [fleet.ledger()[one][3] for one in doubtful] == ["1"] * len(doubtful)

        store = DeadLetterStore(client, Keys("ninja:"))
        replayable = sum(
            json.loads(letter)["reason"] not in ("invalid", "malformed")
            for letter in recorded["letters"].values()
        )
        letters = len(recorded["letters"])
        result = replay(fleet.app, store, store.newest())
        assert result == ReplayResult(letters, replayable, letters - replayable, 0)
        wait_until(lambda: len(fleet.api.delivered) == len(goals) + replayable, "the replayed")

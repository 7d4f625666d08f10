"""What Redis holds was written by this version, an earlier or a later one, or by somebody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from ninja_tasks.cli import ninja
from ninja_tasks.config import settings_of
from ninja_tasks.dead_letters.limiter import LetterClass, ReportLimiter
from ninja_tasks.dead_letters.replay import ReplayResult, replay
from ninja_tasks.dead_letters.store import REASONS, DeadLetter, DeadLetterStore
from ninja_tasks.delivery.documents import UnreadableDocument
from ninja_tasks.delivery.gate import Answer, Gate
from ninja_tasks.delivery.parking import ParkedGoal
from ninja_tasks.delivery.record import AttemptLine, DeliveryRecord
from ninja_tasks.delivery.state import Keys, connect
from ninja_tasks.testing import EmbeddedServer

RECORDED = Path(__file__).parents[1] / "recorded"
VERSIONS = sorted(folder.name for folder in RECORDED.iterdir() if (folder / "queue.json").exists())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAYLOAD = {
    "GoalId": "299837db-9b51-45a4-996b-844d3fd05bbd",
    "CustomerId": "2eccd743-4164-4892-a416-dc5c16f44971",
    "CreatedOnUtc": "2026-01-01 00:00:00.000001",
}

#: What can lie in the place of a JSON document, and why it cannot be read.
UNREADABLE = {
    b"": "is not JSON",
    b"\xff\xfe": "is not JSON",
    b"{": "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"[1]": "is not a JSON object",
    b'{"reason": 7}': "has a reason of another type",
    b'{"body": {}, "error": "no reason"}': "has no reason",
    b'{"reason": "rejected", "attempts": true}': "has a attempts of another type",
    b'{"reason": "rejected", "payload": {}, "others": 3}': "has a others of another type",
}


@dataclass(frozen=True)
class State:
    """A Redis that holds state, and what reads it."""

    app: Celery
    client: redis.Redis
    keys: Keys

    @property
    def store(self) -> DeadLetterStore:
        return DeadLetterStore(self.client, self.keys)

    @property
    def gate(self) -> Gate:
        return Gate(settings_of(self.app), self.client)

    def put(self, delivery_id: str, document: bytes | str) -> None:
        self.client.hset(self.keys.letters, delivery_id, document)
        self.client.zadd(self.keys.letter_times, {delivery_id: len(document)})

    def run(self, *arguments: str) -> Any:
        """Run a command as a person would; with ``--json`` return the objects that it wrote."""
        done = CliRunner().invoke(ninja, arguments, obj=SimpleNamespace(app=self.app))
        assert done.exit_code == 0, (done.output, done.exception)
        if "--json" not in arguments:
            return done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    def queued(self) -> list[dict[str, Any]]:
        return [json.loads(one) for one in self.client.lrange("ninja_tasks", 0, -1)]


@pytest.fixture
def state(ninja_redis: EmbeddedServer) -> Iterator[State]:
    app = Celery("shop", broker=ninja_redis.url, set_as_current=False)
    with connect(settings_of(app)) as client:
        client.flushall()
        yield State(app, client, Keys("ninja:"))


def recorded(version: str, what: str) -> Any:
    return json.loads((RECORDED / version / f"{what}.json").read_text())


# Documents of earlier versions


@pytest.mark.parametrize("version", VERSIONS)
def test_a_letter_of_an_earlier_version_is_read_whole(state: State, version: str) -> None:
    letters = recorded(version, "letters")
    for delivery_id, document in letters.items():
        state.put(delivery_id, document)
    read = list(state.store.newest())
    assert len(read) == len(letters) >= 8
    assert all(one.is_readable for one in read)
    for one in read:
        was = json.loads(letters[one.letter.delivery_id])
        now = json.loads(json.dumps(state.store.get(one.letter.delivery_id), default=vars_of))
        assert was == {name: now["letter"][name] for name in was}
    assert {one.letter.reason for one in read} <= set(REASONS)
    deliverable = sum(one.letter.reason not in ("invalid", "malformed") for one in read)
    assert (
        replay(state.app, state.store, read).queued
        == deliverable
        == state.client.llen("ninja_tasks")
    )


def vars_of(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__slots__}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_parked_goal_of_an_earlier_version_is_read_whole(version: str) -> None:
    for document in recorded(version, "parked").values():
        was, goal = json.loads(document), ParkedGoal.from_document(document)
        assert was == {name: getattr(goal, name) for name in was}
        assert DeliveryRecord("one", NOW).with_headers(goal.headers).headers() == was["headers"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_of_an_earlier_version_is_read_whole(version: str) -> None:
    histories = []
    for text in recorded(version, "queue"):
        headers = json.loads(text)["headers"]
        ours = {name: value for name, value in headers.items() if name.startswith("ninja_")}
        record = DeliveryRecord(headers["id"], NOW).with_headers(headers)
        assert record.headers() == {"ninja_enqueued_at": NOW.isoformat(), **ours}
        histories.append(record.history)
    assert any(histories)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_page_of_an_earlier_version_is_read_by_python_and_by_the_scripts(
    state: State, version: str
) -> None:
    pages = recorded(version, "ledger")
    for name, page in pages.items():
        delivery_id = name.removeprefix("ninja:l:")
        state.client.set(name, page)
        kind, *words = page.split()
        entry = state.gate.ledger_entry(delivery_id)
        assert entry is not None
        admission = state.gate.admit(
            DeliveryRecord(delivery_id, NOW), "token", expired=False, stop_on_doubt=False
        )
        if kind == "d":
            assert (entry.attempts, admission.answer) == (int(words[1]), Answer.DELIVERED)
        else:
            assert entry.attempts == int(words[0]) == admission.record.made
            assert admission.record.doubtful == int(words[2])
    assert {page[0] for page in pages.values()} == {"d", "o"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_earlier_version_has_counted_is_told(state: State, version: str) -> None:
    reports = recorded(version, "reports")
    state.client.hset(state.keys.reports, mapping=reports)
    untold = ReportLimiter(state.client, state.keys).overdue(everything=True)
    assert {(one.letters, one.count) for one in untold} == {
        (LetterClass(*json.loads(name)), int(value.split()[1]))
        for name, value in reports.items()
        if value.split()[1] != "0"
    }


# Documents from the future


def test_a_letter_of_a_later_version_is_read_and_replayed(state: State) -> None:
    line = {"at": NOW.isoformat(), "outcome": "postponed", "phase": "proxy", "via": "http/3"}
    document = {
        "format": 7,
        "reason": "postponed_for_ever",
        "error": "of a cause that this version does not know",
        "history": [line, "what is this"],
        "payload": PAYLOAD,
        "attempts": 3,
        "others": {"ninja_key": "order-17"},
        "seen_by": ["a", "b"],
    }
    state.put("one", json.dumps(document))
    stored = state.store.get("one")
    assert stored is not None
    assert stored.letter == DeadLetter(
        delivery_id="one",
        reason="postponed_for_ever",
        error="of a cause that this version does not know",
        history=(AttemptLine(NOW.isoformat(), "postponed", phase="proxy"),),
        payload=PAYLOAD,
        attempts=3,
        others={"ninja_key": "order-17"},
    )
    assert "postponed_for_ever" in state.run("dead", "list")
    assert "http/3" not in state.run("dead", "show", "one")
    assert state.run("dead", "replay", "one", "--yes", "--json")[0]["queued"] == 1
    (message,) = state.queued()
    assert message["headers"]["ninja_attempts"]["made"] == 3
    assert message["headers"]["ninja_key"] == "order-17"
    assert state.store.count() == 0


def test_a_parked_goal_of_a_later_version_is_read() -> None:
    document = {"format": 7, "body": PAYLOAD, "headers": {"ninja_key": "x"}, "tenant": {"a": 1}}
    assert ParkedGoal.from_document(json.dumps(document)) == ParkedGoal(PAYLOAD, {"ninja_key": "x"})


@pytest.mark.parametrize(
    ("page", "made", "doubtful", "answer"),
    [
        ("d 1795655260878 2 1 2c4b88ee more words", 2, 0, Answer.DELIVERED),
        ("o 3 2 1 0 0 0.000 c0dd8526 1795655257977 0 - 0 more words", 3, 1, Answer.GO),
        ("o 3 2 1 0 0 0.000 c0dd8526 1795655257977 0", 3, 1, Answer.GO),
        ("p what is this", 1, 1, Answer.GO),
        ("d soon", 1, 1, Answer.GO),
        ("o 3", 1, 1, Answer.GO),
        ("", 1, 1, Answer.GO),
    ],
)
def test_a_page_with_more_words_is_read_and_one_that_cannot_be_read_is_a_doubt(
    state: State, page: str, made: int, doubtful: int, answer: Answer
) -> None:
    state.client.set(state.keys.page("one"), page)
    entry = state.gate.ledger_entry("one")
    assert entry is not None
    assert (entry.attempts, entry.delivered_at is not None) == (made, answer is Answer.DELIVERED)
    record = DeliveryRecord("one", NOW)
    strict = state.gate.admit(record, "token", expired=False, stop_on_doubt=True)
    assert strict.answer is (Answer.DOUBT if doubtful else answer)
    admission = state.gate.admit(record, "token", expired=False, stop_on_doubt=False)
    assert admission.answer is answer
    assert (admission.record.doubtful, admission.record.made) == (doubtful, made)


def test_classes_that_cannot_be_read_do_not_stand_in_the_way_of_others(state: State) -> None:
    due = f"{NOW.timestamp() * 1000:.0f}"
    state.client.hset(
        state.keys.reports,
        mapping={
            '["rejected", "rejected", "404", "of Tuesday"]': f"{due} 2 one more words",
            "no JSON": f"{due} 3 two",
            '["short"]': f"{due} 4 three",
            '["expired", "Expired", "none"]': "what is this",
            '["invalid", "InvalidGoal", "none"]': f"{due} 5 four",
        },
    )
    limiter = ReportLimiter(state.client, state.keys)
    unreadable = LetterClass("malformed", "UnreadableClass", "none")
    assert {(one.letters, one.count, one.delivery_id) for one in limiter.overdue()} == {
        (LetterClass("rejected", "rejected", "404"), 2, "one"),
        (LetterClass("invalid", "InvalidGoal", "none"), 5, "four"),
        (unreadable, 3, "two"),
        (unreadable, 4, "three"),
    }
    assert limiter.overdue() == []
    state.client.hset(state.keys.reports, '["expired", "Expired", "none"]', "what is this")
    assert limiter.count(LetterClass("expired", "Expired", "none"), "five") == 1


# Documents that nobody can read


def test_unreadable_letters_are_shown_with_their_bytes_and_never_block_the_others(
    state: State,
) -> None:
    good = DeadLetter("good", "rejected", payload=PAYLOAD, died_at=NOW.isoformat())
    state.store.put(good)
    for number, document in enumerate(UNREADABLE):
        state.put(f"bad-{number}", document)
    total = len(UNREADABLE) + 1

    listed = state.run("dead", "list", "--json")
    assert {one["delivery_id"]: one["reason"] for one in listed} == {
        "good": "rejected",
        **{f"bad-{number}": "malformed" for number in range(len(UNREADABLE))},
    }
    assert f"({total} of {total})" in state.run("dead", "list")
    for number, (document, why) in enumerate(UNREADABLE.items()):
        (shown,) = state.run("dead", "show", f"bad-{number}", "--json")
        assert base64.b64decode(shown["raw"]) == document
        assert why in shown["error"]
        state.run("dead", "show", f"bad-{number}")

    (result,) = state.run("dead", "replay", "--all", "--yes", "--json")
    assert (result["matched"], result["queued"]) == (total, 1)
    (message,) = state.queued()
    assert message["headers"]["id"] == "good"

    assert "discarded: 1" in state.run("dead", "discard", "bad-1", "--yes")
    state.store.put(good)
    rest = len(UNREADABLE) - 1
    assert f"discarded: {rest}" in state.run("dead", "discard", "--reason", "malformed", "--yes")
    assert [one.letter.delivery_id for one in state.store.newest()] == ["good"]


def test_a_letter_is_found_under_its_key_whatever_id_its_document_has(state: State) -> None:
    state.put("one", json.dumps({"delivery_id": "two", "reason": "rejected", "payload": PAYLOAD}))
    assert "discarded: 1" in state.run("dead", "discard", "one", "--yes")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"headers": {}}',
        '{"body": {}, "headers": [1]}',
        '{"body": {}, "retries": true}',
        '{"body": {}, "priority": "high"}',
    ],
)
def test_a_parked_document_without_what_it_needs_is_said_to_be_unreadable(document: str) -> None:
    with pytest.raises(UnreadableDocument):
        ParkedGoal.from_document(document)


def test_a_replay_leaves_out_what_it_cannot_read(state: State) -> None:
    state.put("one", b"\xff")
    assert replay(state.app, state.store, state.store.newest()) == ReplayResult(1, 0, 1, 0)
    state.store.put(replace(DeadLetter("two", "rejected"), payload=PAYLOAD))
    assert replay(state.app, state.store, state.store.newest()) == ReplayResult(2, 1, 1, 0)

"""The gate in a real Valkey: claims, holds, the breaker, and what the ledger says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from ninja_tasks.config import Settings, load_settings
from ninja_tasks.delivery import scripts
from ninja_tasks.delivery.gate import Answer, Gate, Intake
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.parking import ParkedGoal, Parking
from ninja_tasks.delivery.presence import Heartbeat, process_name
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.delivery.state import Keys
from ninja_tasks.testing import EmbeddedServer

#: Makes the scripts read the time from a key, in milliseconds.
CLOCK = "local function now_ms() return tonumber(redis.call('GET', 'clock')) end\n"
START = 1_800_000_000_000
RECORD = DeliveryRecord("one", datetime(2026, 1, 1, tzinfo=UTC))
MOMENT = datetime(2027, 1, 15, 8, tzinfo=UTC)


class Rig:
    """A gate whose clock stands still until it is told."""

    def __init__(self, client: redis.Redis, **configuration: Any) -> None:
        self.client = client
        self.settings: Settings = load_settings(
            {f"ninja_{name}": value for name, value in configuration.items()},
            {},
            "redis://localhost",
        )
        self.gate = Gate(self.settings, client)
        self.parking = Parking(client, Keys(self.settings.key_prefix))
        self.now = 0
        self.at(0)

    def at(self, milliseconds: float) -> Rig:
        self.now = int(milliseconds)
        self.client.set("clock", START + self.now)
        return self

    def lose_worker(self) -> Rig:
        """Let the heartbeats of all processes end."""
        if heartbeats := self.client.keys("ninja:w:*"):
            self.client.delete(*heartbeats)
        return self

    def later(self, milliseconds: float) -> Rig:
        return self.at(self.now + milliseconds)

    def admit(self, name: str = "one", token: str = "", **options: Any) -> Any:
        record = options.pop("record", replace(RECORD, delivery_id=name))
        flags = {"expired": False, "stop_on_doubt": False} | options
        return self.gate.admit(record, token or f"t-{name}", **flags)

    def answer(self, name: str = "one", token: str = "", **options: Any) -> Answer:
        answer: Answer = self.admit(name, token, **options).answer
        return answer

    def settle(
        self,
        outcome: Outcome,
        name: str = "one",
        token: str = "",
        record: DeliveryRecord | None = None,
        **details: Any,
    ) -> Any:
        attempt = Attempt(outcome, MOMENT, 12, **details)
        done = (record or replace(RECORD, delivery_id=name)).after(attempt)
        return self.gate.settle(done, attempt, token or f"t-{name}").news

    def fail(self, times: int) -> None:
        for number in range(times):
            self.admit(f"failed-{number}")
            self.settle(Outcome.NOT_SENT, f"failed-{number}")


@pytest.fixture
def client(ninja_redis: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    read = scripts.read
    monkeypatch.setattr(scripts, "read", lambda name: CLOCK if name == "clock" else read(name))
    with redis.Redis.from_url(ninja_redis.url, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def rig(client: redis.Redis) -> Rig:
    return Rig(client, rate_limit="none")


# Claims


def test_a_goal_is_admitted_once_and_its_copy_waits_while_its_process_lives(rig: Rig) -> None:
    assert rig.answer(token="first") is Answer.GO
    copy = rig.later(10_000).admit(token="second")
    assert copy.answer is Answer.BUSY
    assert copy.wait_seconds == pytest.approx(6, abs=0.1)


def test_a_claim_ends_after_ten_minutes_even_if_its_process_lives(rig: Rig) -> None:
    rig.admit(token="first")
    assert rig.later(599_999).answer(token="second") is Answer.BUSY
    assert rig.later(2).admit(token="second").record.doubtful == 1


def test_a_goal_whose_worker_is_lost_three_times_in_a_row_is_given_up(rig: Rig) -> None:
    for number in range(3):
        assert rig.answer(token=f"try-{number}") is Answer.GO
        rig.lose_worker()
    lost = rig.admit(token="another")
    assert lost.answer is Answer.LOST
    assert (lost.record.made, lost.record.doubtful) == (3, 3)
    assert rig.answer(token="copy") is Answer.LOST


def test_an_answer_of_the_api_ends_the_count_of_lost_workers(rig: Rig) -> None:
    for number in range(2):
        rig.admit(token=f"try-{number}")
        rig.lose_worker()
    rig.admit(token="lucky")
    rig.settle(Outcome.UNKNOWN, token="lucky")
    rig.admit(token="next")
    assert rig.lose_worker().answer(token="again") is Answer.GO


def test_a_goal_that_was_given_up_for_its_lost_workers_can_be_replayed(rig: Rig) -> None:
    for number in range(3):
        rig.admit(token=f"try-{number}")
        rig.lose_worker()
    lost = rig.admit(token="last").record
    replayed = replace(lost, charged=0, replays=1)
    assert rig.answer(token="replayed", record=replayed) is Answer.GO


def test_asking_again_with_the_same_token_continues_the_claim(rig: Rig) -> None:
    assert rig.answer(token="first") is Answer.GO
    assert rig.answer(token="first") is Answer.GO


def test_a_claim_of_which_nobody_heard_is_no_doubt_once_it_is_ended(rig: Rig) -> None:
    rig.admit(token="unheard")
    rig.gate.unclaim("one", "another")
    assert rig.answer(token="copy") is Answer.BUSY
    rig.gate.unclaim("one", "unheard")
    rig.gate.unclaim("one", "unheard")
    admission = rig.admit(token="copy", stop_on_doubt=True)
    assert (admission.answer, admission.record.doubtful) == (Answer.GO, 0)


def test_a_probe_of_which_nobody_heard_is_followed_by_another_once_its_claim_is_ended(
    rig: Rig,
) -> None:
    rig.fail(5)
    rig.later(5000).admit("unheard")
    rig.gate.unclaim("unheard", "t-unheard")
    assert rig.answer("b") is Answer.GO


@pytest.mark.parametrize(
    "numbers",
    [
        {"ledger_ttl_seconds": 60, "read_timeout_seconds": 333.3333},
        {"connect_timeout_seconds": 0.0123, "read_timeout_seconds": 400.98765},
        {"breaker_cooldown_seconds": 1.2345},
    ],
)
def test_settings_with_fractions_of_a_millisecond_deliver(
    client: redis.Redis, numbers: dict[str, float]
) -> None:
    rig = Rig(client, **numbers)
    rig.fail(5)
    rig.later(10_000)
    assert rig.answer("a") is Answer.GO
    rig.settle(Outcome.DELIVERED, "a")
    assert rig.answer("a") is Answer.DELIVERED


def test_a_full_redis_takes_heartbeats_and_decisions(rig: Rig) -> None:
    rig.fail(5)
    rig.later(5000)
    rig.client.config_set("maxmemory", 1)
    try:
        Heartbeat(rig.client, Keys("ninja:"), lambda: [17]).beat()
        assert rig.gate.intake("first")[0] is Intake.PROBE
    finally:
        rig.client.config_set("maxmemory", 0)
    assert rig.client.exists(Keys("ninja:").heartbeat(process_name(17)))


def test_a_delivered_goal_is_not_sent_again(rig: Rig) -> None:
    rig.admit()
    rig.settle(Outcome.DELIVERED)
    assert rig.answer(token="second") is Answer.DELIVERED
    entry = rig.gate.ledger_entry("one")
    assert entry is not None
    assert (entry.attempts, entry.possible_duplicate) == (1, False)
    assert entry.delivered_at == datetime.fromtimestamp(START / 1000, UTC).isoformat()


def test_a_claim_that_ended_without_an_outcome_is_an_attempt_that_may_have_counted(
    rig: Rig,
) -> None:
    rig.admit(token="first")
    again = rig.lose_worker().admit(token="second")
    assert again.answer is Answer.GO
    found = again.record
    assert (found.made, found.charged, found.doubtful) == (1, 1, 1)
    assert (found.history[0].outcome, found.history[0].error) == ("unknown", "WorkerLost")
    assert found.after(Attempt(Outcome.DELIVERED, MOMENT, 1)).possible_duplicate


def test_such_a_doubt_ends_the_delivery_where_the_caller_wants_that_however_often_it_is_asked(
    rig: Rig,
) -> None:
    rig.admit(token="first")
    rig.lose_worker()
    for token in ("second", "third"):
        asked = rig.admit(token=token, stop_on_doubt=True)
        assert (asked.answer, asked.record.doubtful) == (Answer.DOUBT, 1)
    replayed = replace(asked.record, replays=1)
    assert rig.answer(token="fourth", stop_on_doubt=True, record=replayed) is Answer.GO


def test_an_attempt_that_an_old_copy_does_not_know_is_counted(rig: Rig) -> None:
    rig.admit(token="first")
    rig.settle(Outcome.UNKNOWN, token="first")
    again = rig.admit(token="second")
    assert (again.answer, again.record.made, again.record.doubtful) == (Answer.GO, 1, 1)
    rig.settle(Outcome.DELIVERED, token="second", record=again.record)
    entry = rig.gate.ledger_entry("one")
    assert entry is not None
    assert (entry.attempts, entry.possible_duplicate) == (2, True)


def test_a_goal_whose_attempts_are_used_up_is_not_sent_again_unless_a_person_replays_it(
    rig: Rig,
) -> None:
    rig.admit(token="first")
    rig.settle(Outcome.REFUSED, token="first", status=503, record=replace(RECORD, charged=15))
    again = rig.admit(token="second")
    assert again.answer is Answer.EXHAUSTED
    replayed = again.record.replayed(MOMENT)
    assert rig.answer(token="third", record=replayed) is Answer.GO


def test_an_expired_goal_is_given_up_unless_it_was_delivered(rig: Rig) -> None:
    assert rig.answer("old", expired=True) is Answer.EXPIRED
    rig.admit()
    rig.settle(Outcome.DELIVERED)
    assert rig.answer(token="second", expired=True) is Answer.DELIVERED


def test_an_old_copy_of_a_parked_goal_is_not_sent(rig: Rig) -> None:
    rig.parking.park("one", ParkedGoal({}, {}, 1), enqueued_at=MOMENT, seconds=60)
    assert rig.answer() is Answer.PARKED


def test_two_workers_that_both_deliver_leave_a_possible_duplicate(rig: Rig) -> None:
    rig.admit(token="slow")
    again = rig.lose_worker().admit(token="second")
    rig.settle(Outcome.DELIVERED, token="second", record=replace(again.record, doubtful=0))
    rig.settle(Outcome.DELIVERED, token="slow")
    entry = rig.gate.ledger_entry("one")
    assert entry is not None
    assert entry.possible_duplicate


def test_a_late_failure_does_not_undo_a_delivery(rig: Rig) -> None:
    rig.admit(token="slow")
    again = rig.lose_worker().admit(token="second")
    rig.settle(Outcome.DELIVERED, token="second", record=again.record)
    rig.settle(Outcome.UNKNOWN, token="slow")
    assert rig.answer(token="third") is Answer.DELIVERED


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.UNKNOWN])
def test_settling_twice_counts_once(rig: Rig, outcome: Outcome) -> None:
    rig.admit()
    for _ in range(2):
        rig.settle(outcome)
    assert rig.gate.counters() == {"attempts": 1, outcome.value: 1}
    assert rig.gate.latencies() == {"25": 1}


def test_a_delivered_goal_keeps_at_most_200_bytes(rig: Rig) -> None:
    name = "d2719d3f-5c5b-4e0e-9c0a-6e696e6a6121"
    rig.admit(name, token="12345678")
    rig.settle(Outcome.DELIVERED, name, token="12345678")
    assert rig.client.memory_usage(f"ninja:l:{name}") <= 200
    assert rig.client.ttl(f"ninja:l:{name}") > 604000


def test_a_claim_outlives_its_lease_however_short_the_ledger_is(client: redis.Redis) -> None:
    rig = Rig(client, rate_limit="none", ledger_ttl_seconds=1)
    rig.admit(token="first")
    assert client.ttl("ninja:l:one") > 600
    assert rig.lose_worker().admit(token="second").record.doubtful == 1


def test_a_goal_is_admitted_and_settled_in_a_full_redis(rig: Rig) -> None:
    rig.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError):
            rig.client.set("more", "x")
        assert rig.answer() is Answer.GO
        rig.settle(Outcome.DELIVERED)
        assert rig.answer(token="copy") is Answer.DELIVERED
    finally:
        rig.client.config_set("maxmemory", 0)


# Holds, pause and breaker


def test_retry_after_holds_every_goal_and_then_no_longer(rig: Rig) -> None:
    rig.admit("a")
    rig.settle(Outcome.REFUSED, "a", status=429, retry_after_seconds=3.0)
    held = rig.admit("b")
    assert (held.answer, held.wait_seconds) == (Answer.HOLD, 3.0)
    assert rig.gate.intake("w")[:2] == (Intake.HOLD, 3.0)
    assert rig.gate.breaker() == "closed"
    assert rig.later(3000).answer("b") is Answer.GO


def test_a_shorter_hold_does_not_end_a_longer_one(rig: Rig) -> None:
    rig.settle(Outcome.REFUSED, "a", status=503, retry_after_seconds=60.0)
    rig.settle(Outcome.REFUSED, "b", status=429, retry_after_seconds=1.0)
    assert rig.admit("c").wait_seconds == 60


@pytest.mark.parametrize(("due", "seconds"), [(None, math.inf), (2500, 2.5), (-9000, 0.0)])
def test_a_worker_learns_when_a_parked_goal_is_due(
    rig: Rig, due: int | None, seconds: float
) -> None:
    if due is not None:
        now = START + rig.now
        rig.client.zadd("ninja:parked:due", {"a": now + due, "b": now + due + 1})
    assert rig.gate.intake("w").due_in_seconds == seconds


def test_a_pause_holds_until_it_is_ended(rig: Rig) -> None:
    rig.gate.pause()
    assert rig.answer() is Answer.PAUSED
    assert rig.gate.intake("w")[0] is Intake.PAUSED
    rig.gate.resume()
    assert rig.answer() is Answer.GO


def test_the_breaker_opens_lets_one_goal_try_doubles_its_pause_and_closes(rig: Rig) -> None:
    rig.fail(4)
    assert rig.gate.breaker() == "closed"
    rig.fail(5)
    assert rig.gate.breaker() == "open"
    held = rig.admit("a")
    assert (held.answer, held.wait_seconds) == (Answer.BREAKER, 5.0)
    assert rig.gate.intake("w")[:2] == (Intake.BREAKER, 5.0)

    rig.later(5000)
    assert rig.gate.breaker() == "half_open"
    assert rig.answer("a") is Answer.GO
    assert rig.answer("b") is Answer.BREAKER
    rig.settle(Outcome.NOT_SENT, "a")
    assert rig.admit("b").wait_seconds == 10

    rig.later(10_000)
    assert rig.answer("b") is Answer.GO
    rig.settle(Outcome.DELIVERED, "b")
    assert rig.gate.breaker() == "closed"
    assert rig.answer("c") is Answer.GO
    rig.fail(4)
    assert rig.gate.breaker() == "closed"


def test_the_pause_of_the_breaker_is_at_most_a_minute(rig: Rig) -> None:
    rig.fail(5)
    pauses = []
    for number in range(6):
        pauses.append(rig.admit("x").wait_seconds)
        rig.later(pauses[-1] * 1000)
        rig.admit(f"probe-{number}")
        rig.settle(Outcome.UNKNOWN, f"probe-{number}")
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_a_probe_whose_worker_is_lost_is_followed_by_another(rig: Rig) -> None:
    rig.fail(5)
    rig.later(5000)
    assert rig.answer("lost") is Answer.GO
    assert rig.answer("b") is Answer.BREAKER
    assert rig.later(41_000).answer("b") is Answer.GO


def test_the_next_probe_follows_as_soon_as_the_heartbeat_of_the_last_ones_worker_ends(
    rig: Rig,
) -> None:
    rig.fail(5)
    rig.later(5000)
    assert rig.answer("lost") is Answer.GO
    assert rig.gate.intake("another")[0] is Intake.BREAKER
    rig.lose_worker()
    assert rig.gate.intake("another")[0] is Intake.PROBE
    assert rig.answer("b") is Answer.GO


def test_a_probe_that_is_told_to_wait_is_followed_by_another(rig: Rig) -> None:
    rig.fail(5)
    rig.later(5000).admit("a")
    rig.settle(Outcome.REFUSED, "a", status=429, retry_after_seconds=2.0)
    assert rig.answer("b") is Answer.HOLD
    assert rig.later(2000).answer("b") is Answer.GO


def test_a_rejected_goal_shows_that_the_api_answers(rig: Rig) -> None:
    rig.fail(4)
    rig.admit("a")
    rig.settle(Outcome.REJECTED, "a", status=400)
    rig.fail(4)
    assert rig.gate.breaker() == "closed"


def test_one_worker_at_a_time_looks_for_a_goal_to_try_with(rig: Rig) -> None:
    rig.fail(5)
    rig.later(5000)
    assert rig.gate.intake("first")[0] is Intake.PROBE
    assert rig.gate.intake("second")[0] is Intake.BREAKER
    assert rig.later(3001).gate.intake("second")[0] is Intake.PROBE


def test_a_long_outage_and_its_end_are_told_once(rig: Rig) -> None:
    rig.fail(5)
    news = []
    for number in range(6):
        rig.later(60_000).admit(f"probe-{number}")
        news.append(rig.settle(Outcome.NOT_SENT, f"probe-{number}"))
    assert [one is not None for one in news] == [True, False, False, False, False, False]
    assert not news[0].recovered
    rig.later(60_000).admit("last")
    told = rig.settle(Outcome.DELIVERED, "last")
    assert told.recovered
    assert told.seconds == 420
    assert rig.settle(Outcome.DELIVERED, "other") is None


def test_a_short_outage_is_not_told(rig: Rig) -> None:
    rig.fail(5)
    rig.later(5000).admit("probe")
    assert rig.settle(Outcome.DELIVERED, "probe") is None


def test_two_round_trips_are_added_to_a_delivery(rig: Rig) -> None:
    rig.admit("warm")
    rig.settle(Outcome.DELIVERED, "warm")
    rig.client.config_resetstat()
    rig.admit()
    rig.settle(Outcome.DELIVERED)
    calls = {name: numbers["calls"] for name, numbers in rig.client.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == 2

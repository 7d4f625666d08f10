"""What a delivery costs in Redis: commands as the server counts them, bytes, and processor time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis
from fleet import size

from ninja_tasks.config import load_settings
from ninja_tasks.delivery.gate import Answer, Gate
from ninja_tasks.delivery.outcomes import Attempt, Outcome
from ninja_tasks.delivery.record import DeliveryRecord
from ninja_tasks.testing import embedded_server

if TYPE_CHECKING:
    from fleet import Fleet

GOALS = size(200, 1000)


def test_a_delivered_goal_takes_two_scripts_and_at_most_200_bytes(
    fleet: Fleet, measured: Callable[..., None]
) -> None:
    # State apart from the broker, or the transport's scripts would count as the gate's.
    with (
        embedded_server() as state,
        redis.Redis.from_url(state.url, decode_responses=True) as client,
        redis.Redis.from_url(fleet.broker.url) as broker,
    ):
        fleet.app.conf.ninja_redis_url = state.url
        fleet.start(rate_limit="none", redis_url=state.url)
        fleet.enqueue(20)
        fleet.wait_for(lambda now: now.delivered == 20, "the first deliveries")
        client.config_resetstat()
        fleet.enqueue(GOALS)
        broker.config_resetstat()
        fleet.api.wait_for(20 + GOALS, 60)
        calls, of_transport = evalsha_calls(client), evalsha_calls(broker)
        fleet.wait_for(lambda now: now.delivered == 20 + GOALS, "every delivery")
        sizes = [client.memory_usage(name) for name in client.scan_iter("ninja:l:*")]
        fleet.stop()
    measured(
        scripts_per_goal=calls / GOALS,
        scripts_of_the_transport_per_goal=of_transport / GOALS,
        most_bytes=max(sizes),
    )
    # The steps of the worker ask too, about twice a second.
    assert 1.9 <= calls / GOALS <= 2 + 60 / GOALS
    assert max(sizes) <= 200


def evalsha_calls(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_what_the_gate_costs_is_measured(fleet: Fleet, measured: Callable[..., None]) -> None:
    settings = load_settings({}, {"NINJA_RATE_LIMIT": "1000000/s"}, fleet.broker.url)
    with redis.Redis.from_url(fleet.broker.url, decode_responses=True) as client:
        gate = Gate(settings, client)
        now = datetime.now(UTC)
        attempt = Attempt(Outcome.DELIVERED, now, 12, 200)
        records = [DeliveryRecord(str(uuid.uuid4()), now) for _ in range(size(500, 5000))]
        cpu = time.process_time()
        for record in records:
            admission = gate.admit(record, "12345678", expired=False, stop_on_doubt=False)
            assert admission.answer is Answer.GO
            gate.settle(record.after(attempt), attempt, "12345678")
        ours = (time.process_time() - cpu) / len(records)
        stats = client.info("commandstats")["cmdstat_evalsha"]
        measured(
            client_microseconds_per_goal=round(ours * 1e6),
            server_microseconds_per_script=stats["usec_per_call"],
        )

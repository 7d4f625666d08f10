"""``demo``: the whole journey on real parts: a Valkey, a worker, and an API with faults."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from celery import Celery
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..celery import install
from ..config import settings_of
from ..dead_letters.replay import replay
from ..dead_letters.store import DeadLetterStore
from ..delivery.state import Keys, connect
from ..message import QUEUE_NAME, TASK_NAME
from ..producer import enqueue_goals
from ..status import statistics
from ..testing import (
    Answer,
    AnyAnswer,
    CloseConnection,
    FakeSalesNinja,
    Hang,
    ReceivedGoal,
    embedded_server,
)
from .output import as_json_option, print_json, print_table, say

__all__ = ["demo"]

_GOALS = 300
_GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
_UNKNOWN_GOAL_ID = "00000000-0000-4000-8000-000000000404"
_DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_OUTAGE_SECONDS = 3.0
_STOP_SECONDS = 15.0
_NO_SUCH_GOAL = Answer(400, body=b'{"error": "no such goal"}')
_FAULTS: tuple[AnyAnswer, ...] = (
    *[Answer(503)] * 8,
    *[Answer(429, retry_after=1)] * 4,
    *[CloseConnection()] * 4,
    *[Hang(3.0)] * 2,
    *[Answer(500)] * 4,
)


@dataclass(frozen=True, slots=True)
class Account:
    """What the demo did; ``enqueued`` must be ``delivered`` and ``dead`` together."""

    enqueued: int
    delivered: int
    retried: int
    dead: int
    replayed: int

    @property
    def adds_up(self) -> bool:
        """Whether every goal is accounted for."""
        return self.enqueued == self.delivered + self.dead


@click.command()
@as_json_option
@click.pass_context
def demo(ctx: click.Context, *, as_json: bool) -> None:
    """Watch a few hundred goals travel.

    They are delivered, retried, become dead letters and are replayed. Starts a Valkey server, a
    fake Sales Ninja with faults and one worker on free ports of this machine, and ends them again.
    The exit code is 1 if a goal is unaccounted for.
    """
    with embedded_server() as server, FakeSalesNinja() as api:
        app = _application(server.url, api.url)
        with _worker(server.url, api.url) as worker:
            account = _journey(app, api, worker)
    if as_json:
        print_json(asdict(account))
    else:
        rows = [(name, number) for name, number in asdict(account).items()]
        print_table("What became of the goals", ("", "goals"), rows)
        say(
            f"{account.enqueued} enqueued = {account.delivered} delivered + {account.dead} dead"
            if account.adds_up
            else "the numbers do not add up: a goal is unaccounted for"
        )
    if not account.adds_up:
        ctx.exit(1)


def _journey(app: Celery, api: FakeSalesNinja, worker: subprocess.Popen[bytes]) -> Account:
    settings = settings_of(app)
    store = DeadLetterStore(connect(settings), Keys(settings.key_prefix))
    missing = {_UNKNOWN_GOAL_ID}
    api.script_for(lambda received: _goal_id(received) in missing, then=_NO_SUCH_GOAL)
    goals = [_goal(number) for number in range(_GOALS - 1)]
    goals[_GOALS // 3]["goal_id"] = _UNKNOWN_GOAL_ID
    for goal, fault in zip(goals[:: _GOALS // len(_FAULTS)], _FAULTS, strict=False):
        api.script_for(partial(_is_about, str(goal["customer_id"])), fault)
    first, rest = goals[: 2 * _GOALS // 3], goals[2 * _GOALS // 3 :]

    def delivered() -> int:
        return len({received.delivery_id for received in api.delivered})

    enqueued = len(first) + 1
    say(f"1. Enqueue {enqueued} goals, one of them for a goal that Sales Ninja does not know,")
    say("   and one by a program that checks nothing. The API fails now and then.")
    enqueue_goals(first, app=app)
    careless = {"GoalId": _GOAL_ID, "CustomerId": str(uuid.uuid4()), "Revenue": 12350}
    app.send_task(TASK_NAME, args=[careless], queue=QUEUE_NAME)
    _watch(enqueued, lambda: delivered() + store.count(), worker)

    say(f"2. Sales Ninja goes away, and {len(rest)} more goals come.")
    api.stop()
    enqueue_goals(rest, app=app)
    enqueued += len(rest)
    _outage(app)
    api.start()
    say("   It is back.")
    _watch(enqueued, lambda: delivered() + store.count(), worker)

    say("3. What could not be delivered is a dead letter. Nothing is lost:")
    _print_letters(store)

    say("4. Somebody creates the missing goal in Sales Ninja, and the letters are replayed.")
    say("   The invalid one would be refused again, so it is skipped.")
    missing.clear()
    replayed = replay(app, store, list(store.newest())).queued
    _watch(enqueued, lambda: delivered() + store.count(), worker)

    numbers = statistics(app)
    requests = len(api.requests)
    return Account(
        enqueued=enqueued,
        delivered=delivered(),
        retried=requests - len({received.delivery_id for received in api.requests}) - replayed,
        dead=numbers.dead,
        replayed=replayed,
    )


def _outage(app: Celery) -> None:
    """Wait until the workers have noticed, then a little longer, and say what the goals do."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    before = statistics(app).attempts
    while statistics(app).breaker == "closed" and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    time.sleep(_OUTAGE_SECONDS)
    numbers = statistics(app)
    say(
        f"   After {numbers.attempts - before} attempts the breaker is {numbers.breaker}; "
        f"{numbers.queued} goals wait in the queue, {numbers.parked} are parked, none is lost."
    )


def _is_about(customer_id: str, received: ReceivedGoal) -> bool:
    return received.body is not None and received.body.get("CustomerId") == customer_id


def _goal(number: int) -> dict[str, Any]:
    return {
        "goal_id": _GOAL_ID,
        "customer_id": uuid.uuid4(),
        "revenue": random.randrange(100, 20_000),  # noqa: S311 (an amount for show)
        "key": f"order-{number}",
    }


def _goal_id(received: ReceivedGoal) -> Any:
    return received.body and received.body.get("GoalId")


def _watch(total: int, finished: Callable[[], int], worker: subprocess.Popen[bytes]) -> None:
    """Show progress until every goal is delivered or dead, or the deadline has passed."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    columns = (
        TextColumn("   delivered or dead"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)
        while (count := finished()) < total and time.monotonic() < deadline:
            if worker.poll() is not None:
                raise click.ClickException(f"the worker ended with exit code {worker.returncode}")
            progress.update(bar, completed=count)
            time.sleep(_POLL_SECONDS)
        progress.update(bar, completed=count)


def _print_letters(store: DeadLetterStore) -> None:
    rows = [
        (stored.letter.delivery_id, stored.letter.reason, stored.letter.error)
        for stored in store.newest()
    ]
    print_table("   $ ninja-tasks dead list", ("delivery id", "reason", "error"), rows, err=True)


def _application(broker_url: str, api_url: str) -> Celery:
    app = install(Celery("ninja-tasks-demo", broker=broker_url, set_as_current=False))
    app.conf.update(ninja_api_url=api_url, ninja_redis_url=broker_url)
    return app


@contextmanager
def _worker(broker_url: str, api_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real worker, free of the settings of the directory and environment around it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELERY_", "NINJA_", "SENTRY_"))
    }
    settings = {
        "CELERY_BROKER_URL": broker_url,
        "NINJA_API_URL": api_url,
        "NINJA_REDIS_URL": broker_url,
        "NINJA_READ_TIMEOUT_SECONDS": "1",
        "NINJA_RATE_LIMIT": "100/s",
        "NINJA_BREAKER_COOLDOWN_SECONDS": "1",
    }
    arguments = ("--pool=threads", "--concurrency=8", "--loglevel=ERROR")
    lean = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with tempfile.TemporaryDirectory(prefix="ninja-tasks-demo-") as directory:
        log = Path(directory, "worker.log")
        with log.open("wb") as output:
            worker = subprocess.Popen(  # noqa: S603 (our own command)
                [sys.executable, "-m", "celery", "-A", "ninja_tasks", "worker", *arguments, *lean],
                cwd=directory,
                env={**inherited, **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            if worker.returncode:
                say(log.read_text(errors="replace"))

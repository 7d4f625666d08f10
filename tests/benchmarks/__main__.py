"""Run the benchmark; the report goes to the terminal and to JSON.

The environment says how long it takes: ``QUICK=1`` for the short run, ``ROUNDS=2`` for so many of
the long one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rabbitmq_node import is_installed, rabbitmq_node
from rich.console import Console

from ninja_tasks.testing import embedded_server

from .api import Api, AsyncioApi, fast_api
from .cells import Bench
from .environments import ROOT, environments
from .field import BARE, FIELD, FIRST, OURS, Contender
from .memory import bytes_by_state
from .report import Results, machine, show

__all__ = ["main"]

_SLOW_MILLISECONDS = 50
_THREADS = 8
_SLOW_THREADS = 32


def main() -> None:
    """Measure everything and print one report."""
    # Ended by a signal, it leaves no servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    quick = os.environ.get("QUICK", "") not in {"", "0"}
    rounds = int(os.environ.get("ROUNDS") or (1 if quick else 4))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print("Setting up the environments of the peers, below .bench ...")
    found = environments({contender.packages for contender in (*FIELD, *FIRST)})
    results = Results(quick=quick)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = stack.enter_context(embedded_server(appendonly=True))
        brokers = {"redis": server.url}
        if is_installed():
            brokers["rabbitmq"] = stack.enter_context(rabbitmq_node(directory)).url
        else:
            console.print("RabbitMQ is left out: apt-get install rabbitmq-server")
        fast = stack.enter_context(fast_api())
        slow = stack.enter_context(AsyncioApi(_SLOW_MILLISECONDS))
        bench = Bench(brokers, found, directory)
        field = [contender for contender in FIELD if contender.broker in brokers]
        for turn in range(rounds):
            console.print(f"Round {turn + 1} ...")
            _round(bench, results, field, fast, slow, quick)
        console.print("Ours alone ...")
        for _ in range((rounds + 1) // 2):
            _ours_alone(bench, results, fast, slow, quick)
        _ours_once(bench, results, fast, quick)
        results.record("bytes", bytes_by_state(brokers["redis"], 2000 if quick else 20_000))
    results.record(
        "machine",
        machine()
        | {
            "fast API": fast.name,
            "versions": {" ".join(names) or "own": e.versions() for names, e in found.items()},
        },
    )
    ROOT.mkdir(exist_ok=True)
    path = ROOT / "results.json"
    path.write_text(json.dumps(results.data, indent=1))
    show(results, console)
    console.print(f"All figures, the versions and the machine: {path}")


def _round(
    bench: Bench, results: Results, field: list[Contender], fast: Api, slow: Api, quick: bool
) -> None:
    """Measure every cell of the table once, so that a slow minute hits all contenders alike."""
    goals, slow_goals, produced = (1500, 640, 1000) if quick else (5000, 2560, 5000)
    for contender in field:
        name = contender.name
        drained = bench.drain(contender, fast, _some(goals, contender.share), _THREADS)
        results.add(name, {f"fast {k}": v for k, v in asdict(drained).items()})
        some = _some(slow_goals, contender.slow_share)
        drained = bench.drain(contender, slow, some, _SLOW_THREADS)
        results.add(name, {f"slow {k}": v for k, v in asdict(drained).items()})
        if contender is BARE:
            continue
        ways = ("each", "many") if contender.bulk else ("each",)
        for way in ways:
            made = bench.enqueue(contender, way, produced)
            results.add(name, {f"enqueue {way} {k}": v for k, v in asdict(made).items()})
    for contender in FIRST:
        results.add(contender.name, {"first enqueue cpu": bench.first_enqueue(contender)})


def _ours_alone(bench: Bench, results: Results, fast: Api, slow: Api, quick: bool) -> None:
    for processes in (1, 2):
        several = replace(OURS[0], processes=processes)
        goals = 1280 * processes if quick else 3200 * processes
        drained = bench.drain(several, slow, goals, _SLOW_THREADS)
        results.add(f"{processes} processes", asdict(drained))
    for queued in _backlogs(quick):
        drained = bench.drain(OURS[0], fast, 3000 if quick else 8000, _THREADS, queued=queued)
        results.add(f"backlog {queued:,}", asdict(drained))


def _ours_once(bench: Bench, results: Results, fast: Api, quick: bool) -> None:
    for number in _backlogs(quick):
        results.add(f"enqueued {number:,}", asdict(bench.enqueue(OURS[0], "many", number)))
    traffic = bench.traffic(OURS[0], fast, 1000 if quick else 5000, _THREADS)
    results.record("traffic", asdict(traffic))


def _backlogs(quick: bool) -> tuple[int, int]:
    return 10_000, 20_000 if quick else 1_000_000


def _some(goals: int, share: float) -> int:
    return max(40, int(goals * share))


main()

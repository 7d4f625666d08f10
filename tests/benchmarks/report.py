"""The figures of one run: kept by cell, written as a table with ratios to the bare loop."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from .field import BARE, FIELD, FIRST, OURS

__all__ = ["Results", "machine", "show"]


class Results:
    """Figures by contender and name; each is a list with a value for each round.

    Args:
        quick: whether it was the short run.
    """

    def __init__(self, quick: bool) -> None:
        self.data: dict[str, Any] = {"quick": quick, "cells": {}}

    def add(self, contender: str, figures: Mapping[str, float]) -> None:
        """Add one round's figures of a contender."""
        cells = self.data["cells"].setdefault(contender, {})
        for name, value in figures.items():
            cells.setdefault(name, []).append(round(value, 4))

    def record(self, name: str, value: Any) -> None:
        """Keep something that is not measured by round."""
        self.data[name] = value

    def rounds(self, contender: str, name: str) -> list[float]:
        """Return a figure of every round, or nothing where it was not measured."""
        found: list[float] = self.data["cells"].get(contender, {}).get(name, [])
        return found


def machine() -> dict[str, Any]:
    """Describe this machine."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
    }


def show(results: Results, console: Console) -> None:
    """Print the report."""
    table = Table(title="A goal delivered: worker processor time, speed, memory")
    table.add_column("")
    for heading in ("µs/goal", "÷ bare", "goals/s", "50 ms: goals/s", "Redis µs/goal"):
        table.add_column(heading, justify="right")
    for heading in ("enqueue/s", "bulk/s", "MB", "first s"):
        table.add_column(heading, justify="right")
    table.add_column("a worker killed with a goal in hand")
    bare = results.rounds(BARE.name, "fast cpu")
    for contender in FIELD:
        name = contender.name
        cpu = results.rounds(name, "fast cpu")
        if not cpu:
            continue
        table.add_row(
            name,
            _spread(cpu),
            _spread([own / floor for own, floor in zip(cpu, bare, strict=True)], 2),
            _middle(results.rounds(name, "fast rate")),
            _middle(results.rounds(name, "slow rate")),
            _middle(results.rounds(name, "fast broker_cpu")) if contender.queued else "-",
            _middle(results.rounds(name, "enqueue each rate")),
            _middle(results.rounds(name, "enqueue many rate")),
            _middle(results.rounds(name, "fast megabytes")),
            _middle(results.rounds(name, "fast first"), 2),
            contender.guarantee,
        )
    console.print(table)
    for line in _sentences(results):
        console.print(line, highlight=False)


def _sentences(results: Results) -> list[str]:
    ours, celery = OURS[0].name, "Celery, ten lines, prefork 2"
    each, many = (results.rounds(ours, f"enqueue {way} cpu") for way in ("each", "many"))
    delay = results.rounds(celery, "enqueue each cpu")
    rate, delay_rate = (
        results.rounds(name, figure)
        for name, figure in ((ours, "enqueue many rate"), (celery, "enqueue each rate"))
    )
    mine, bare = (results.rounds(contender.name, "first enqueue cpu") for contender in FIRST)
    one, two = (results.rounds(f"{number} processes", "rate") for number in (1, 2))
    backlogs = [name for name in results.data["cells"] if name.startswith("backlog")]
    short, long = (results.rounds(name, "rate") for name in backlogs)
    small, large = (results.rounds(name, "megabytes") for name in backlogs)
    traffic, kept = results.data["traffic"], results.data["bytes"]
    grown = {
        name: results.rounds(name, "grown")[0]
        for name in results.data["cells"]
        if name.startswith("enqueued")
    }
    return [
        f"enqueue_goal: {_spread(each)} µs of processor time, {_ratio(each, delay)} of task.delay",
        f"enqueue_goals: {_spread(many)} µs for a goal, {_ratio(rate, delay_rate)} of the goals/s"
        " of a loop of task.delay; the producer's memory grew by "
        + ", ".join(f"{size:.1f} MB ({name})" for name, size in grown.items()),
        f"import and first enqueue_goal: {_spread(mine, 2)} s of processor time, "
        f"{_ratio(mine, bare)} of a bare Celery application's first delay",
        f"API of 50 ms, 32 threads: one process {_spread(one)} goals/s "
        f"({median(one) / 640:.2f} of 640), two {_spread(two)} ({_ratio(two, one)})",
        f"{backlogs[1]} against {backlogs[0]}: {_ratio(long, short)} of the goals/s, "
        f"{_ratio(large, small)} of the memory",
        f"Redis for a goal: {traffic['commands']:.2f} commands, {traffic['bytes_in']:.0f} bytes"
        f" in, {traffic['bytes_out']:.0f} out; memory in bytes: "
        + ", ".join(f"{state} {size:.0f}" for state, size in kept.items()),
    ]


def _ratio(figures: list[float], others: list[float]) -> str:
    return _spread([own / other for own, other in zip(figures, others, strict=True)], 2)


def _middle(figures: list[float], digits: int = 0) -> str:
    return f"{median(figures):,.{digits}f}" if figures else "-"


def _spread(figures: list[float], digits: int = 0) -> str:
    """Write the median, with half of the way from the least to the most of the rounds."""
    if len(figures) == 1:
        return _middle(figures, digits)
    return f"{_middle(figures, digits)} ±{(max(figures) - min(figures)) / 2:.{digits}f}"

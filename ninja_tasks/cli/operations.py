"""Operating it: where one goal is, all goals in numbers, and stopping and starting delivery."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import click

from ..config import settings_of
from ..delivery.gate import Gate
from ..delivery.state import connect
from ..status import goal_status, statistics
from .output import as_json_option, print_json, print_table, say, watch_table

__all__ = ["pause", "resume", "stats", "status"]

_WATCH_SECONDS = 1.0


@click.command()
@click.argument("delivery_id", required=False)
@click.option("--goal-id", help="Instead of the delivery id, together with --key.")
@click.option("--key", help="The key that the goal was enqueued with.")
@as_json_option
@click.pass_context
def status(
    ctx: click.Context,
    *,
    delivery_id: str | None,
    goal_id: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Show where one goal is: delivered, parked, dead or pending.

    Pending means in the broker, being delivered, or never seen: the broker cannot be asked.
    """
    if (delivery_id is None) == (goal_id is None or key is None):
        raise click.UsageError("give a delivery id, or --goal-id and --key")
    found = asdict(goal_status(delivery_id, goal_id=goal_id, key=key, app=ctx.obj.app))
    if as_json:
        print_json(found)
    else:
        rows = [(name, value) for name, value in found.items() if value is not None]
        print_table(f"Goal {found['delivery_id']}", ("", ""), rows)


@click.command()
@click.option("--watch", is_flag=True, help="Again every second, until it is interrupted.")
@as_json_option
@click.pass_context
def stats(ctx: click.Context, *, watch: bool, as_json: bool) -> None:
    """Show all goals in numbers.

    With --watch and --json it writes one object on one line every second.
    """
    if as_json:
        print_json(asdict(statistics(ctx.obj.app)))
        with suppress(KeyboardInterrupt):
            while watch:
                time.sleep(_WATCH_SECONDS)
                print_json(asdict(statistics(ctx.obj.app)))
    elif watch:
        watch_table(lambda: _table(ctx.obj.app), _WATCH_SECONDS)
    else:
        print_table(*_table(ctx.obj.app))


@click.command()
@click.pass_context
def pause(ctx: click.Context) -> None:
    """Stop sending goals until resume; they wait in the queue, and no attempt is spent."""
    with _gate(ctx) as gate:
        gate.pause()
    say("paused: workers stop within a few seconds; go on with: ninja-tasks resume")


@click.command()
@click.pass_context
def resume(ctx: click.Context) -> None:
    """Send goals again after pause."""
    with _gate(ctx) as gate:
        gate.resume()
    say("resumed: workers go on within a few seconds")


@contextmanager
def _gate(ctx: click.Context) -> Iterator[Gate]:
    settings = settings_of(ctx.obj.app)
    with connect(settings) as client:
        yield Gate(settings, client)


def _table(app: Any) -> tuple[str, tuple[str, str], list[tuple[str, object]]]:
    numbers = asdict(statistics(app))
    latency = numbers.pop("latency_milliseconds")
    rows: list[tuple[str, object]] = [(name.replace("_", " "), numbers[name]) for name in numbers]
    rows += [(f"latency {share} (ms, at most)", bound) for share, bound in latency.items()]
    return "Goals", ("", "number"), rows

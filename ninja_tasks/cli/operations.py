"""``status`` and ``stats``: where one goal is, and all goals in numbers."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..status import goal_status, statistics
from .output import as_json_option, print_json, print_table

__all__ = ["stats", "status"]


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
    """Show where one goal is: delivered, dead or pending.

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
@as_json_option
@click.pass_context
def stats(ctx: click.Context, *, as_json: bool) -> None:
    """Show all goals in numbers."""
    numbers = asdict(statistics(ctx.obj.app))
    if as_json:
        print_json(numbers)
    else:
        print_table("Goals", ("", "number"), list(numbers.items()))

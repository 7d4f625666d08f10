"""``check``: what is wrong with the set-up, before goals depend on it."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..preflight import FAULT, OK, WARNING, preflight
from .output import as_json_option, print_json, print_table, say

__all__ = ["check"]


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@as_json_option
@click.pass_context
def check(ctx: click.Context, *, strict: bool, as_json: bool) -> None:
    """Look for what is wrong with the set-up.

    It looks at the broker, the Redis for state, the queue, the clocks, the API, Sentry and the
    workers, and says what may happen and how to mend it. No goal is sent and nothing is changed.
    The exit code is 1 if there is a fault. With --json each finding is one object on one line.
    """
    findings = preflight(ctx.obj.app)
    levels = [one.level for one in findings]
    faults, warnings = levels.count(FAULT), levels.count(WARNING)
    if as_json:
        for one in findings:
            print_json(asdict(one))
    else:
        rows = [(one.level, one.name, one.message, one.remedy) for one in findings]
        print_table("The set-up", ("", "what", "found", "remedy"), rows)
        say(f"faults: {faults}; warnings: {warnings}; ok: {levels.count(OK)}")
    if faults or (strict and warnings):
        ctx.exit(1)

"""How commands write: JSON for scripts, tables and messages for people, questions before harm."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["as_json_option", "confirm", "print_json", "print_table", "say", "watch_table"]

#: Width of tables that go into a file or a pipe, where there is no terminal to ask.
_WIDTH_ELSEWHERE = 160

as_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for scripts.")


def print_json(value: Any) -> None:
    """Write one JSON object on one line to standard output."""
    click.echo(json.dumps(value))


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, err: bool = False
) -> None:
    """Write a table to standard output, or with ``err`` to standard error."""
    console = Console(stderr=err)
    if not console.is_terminal:
        console.width = _WIDTH_ELSEWHERE
    console.print(Text(title))
    console.print(_table(columns, rows))


def watch_table(
    read: Callable[[], tuple[str, Sequence[str], Iterable[Sequence[object]]]], seconds: float
) -> None:
    """Show a table again and again in the same place, until the person interrupts it.

    Args:
        read: returns title, columns and rows.
        seconds: between two readings.
    """

    def drawn() -> Group:
        title, columns, rows = read()
        return Group(Text(title), _table(columns, rows))

    with suppress(KeyboardInterrupt), Live(drawn(), auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(drawn(), refresh=True)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def say(message: str) -> None:
    """Write a message for people to standard error."""
    click.echo(message, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person before something is changed.

    Args:
        question: what is going to happen, as a question.
        yes: whether the person has already said so with ``--yes``.

    Raises:
        click.UsageError: where there is no terminal to ask on.
        click.Abort: if the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: add --yes to go ahead")
    click.confirm(question, abort=True, err=True)

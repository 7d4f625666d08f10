"""``enqueue``: goals from flags or from JSON lines onto the queue."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
from celery import Celery

from ..config import ON_UNKNOWN
from ..errors import ConfigurationError, InvalidGoal, PublishError, faults_by_path
from ..goals import WIRE_NAMES
from ..message import Message, batches, publish_batch
from ..outbox import stays_here
from ..producer import prepare
from .output import as_json_option, print_json, say

__all__ = ["enqueue"]

_BATCH = 500
_TIMES = ("created_on", WIRE_NAMES["created_on"])


def _by_name(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Split each ``NAME=VALUE`` at its first equals sign."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter("must be NAME=VALUE")
        if name in found:
            raise click.BadParameter("gives one name twice: a parameter has one value")
        found[name] = text
    return found


@click.command()
@click.option("--goal-id", help="GUID of the goal in Sales Ninja.")
@click.option("--customer-id", help="GUID of the client in Sales Ninja.")
@click.option("--session-id", help="GUID of the client's session.")
@click.option("--ip", help="The client's IPv4 or IPv6 address.")
@click.option(
    "--created-on", help='When it happened, "YYYY-MM-DD HH:MM:SS[.ffffff]" in UTC.  [default: now]'
)
@click.option(
    "--user-param",
    "user_params",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_by_name,
    help="A parameter that stays with the client; may be repeated.",
)
@click.option(
    "--page-param",
    "page_params",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_by_name,
    help="A parameter of this event; may be repeated.",
)
@click.option("--revenue", help="Full price, a plain number.")
@click.option("--net-profit", help="Revenue minus cost, a plain number.")
@click.option("--key", help="Your own id of the event, such as an order number.")
@click.option(
    "--on-unknown",
    type=click.Choice(ON_UNKNOWN),
    help="When a request may have been counted.  [default: the setting ninja_on_unknown]",
)
@click.option("--dry-run", is_flag=True, help="Check the goals and send nothing.")
@as_json_option
@click.pass_context
def enqueue(ctx: click.Context, /, *, dry_run: bool, as_json: bool, **flags: Any) -> None:
    r"""Put goals on the queue, from flags or JSON lines.

    Without flags, each line of standard input is one goal: an object with the names of the flags
    (goal_id, customer_id, ...) or with the API's own field names. Invalid lines are reported and
    left out; the exit code is then 1. The delivery ids go to standard output.

    \b
        ninja-tasks enqueue --goal-id GUID --customer-id GUID --revenue 12350 --key order-17
        ninja-tasks enqueue --dry-run < goals.jsonl
    """
    given = {name: value for name, value in flags.items() if value not in (None, {})}
    if not given and sys.stdin.isatty():
        raise click.UsageError("give --goal-id and --customer-id, or JSON lines on standard input")
    goals: Iterable[Any] = [json.dumps(given)] if given else sys.stdin
    if not dry_run and stays_here(ctx.obj.app):
        raise ConfigurationError(
            "task_always_eager is on in this application, so nothing would be sent: switch it off, "
            "or give --dry-run"
        )
    enqueued = invalid = undated = 0
    for batch in batches(enumerate(goals, start=1), _BATCH):
        checked = list(_checked(batch, as_json=as_json))
        messages = [(line, message) for line, message, _is_dated in checked]
        undated += sum(not is_dated for _line, _message, is_dated in checked)
        if not dry_run:
            _publish(ctx.obj.app, messages, from_line=batch[0][0])
        for line, message in messages:
            _print_enqueued(line, message, as_json=as_json, dry_run=dry_run)
        enqueued += len(messages)
        invalid += sum(bool(text.strip()) for _, text in batch) - len(messages)
    say(f"{'valid, not sent' if dry_run else 'enqueued'}: {enqueued}; invalid: {invalid}")
    if dry_run and undated:
        say(f"without created_on, so they would be dated at the moment of enqueueing: {undated}")
    if invalid:
        ctx.exit(1)


def _publish(app: Celery, messages: list[tuple[int, Message]], *, from_line: int) -> None:
    try:
        publish_batch(app, [message for _, message in messages])
    except PublishError as error:
        raise click.ClickException(
            f"{error}; what stands before line {from_line} is enqueued, and some of the lines from "
            f"{from_line} on may be: enqueue them again, and those with a key are sent once"
        ) from error


def _checked(batch: list[tuple[int, str]], *, as_json: bool) -> Iterator[tuple[int, Message, bool]]:
    """Yield the lines that hold a valid goal, and report the others.

    Yields:
        the line's number, the goal's message, and whether the line says when it happened.
    """
    for line, text in batch:
        if not text.strip():
            continue
        try:
            goal = _object(text)
            yield line, prepare(goal), any(goal.get(name) is not None for name in _TIMES)
        except InvalidGoal as error:
            for path, fault in faults_by_path(error.messages):
                say(f"line {line}: {path}: {fault}")
            if as_json:
                print_json({"line": line, "delivery_id": None, "messages": error.messages})


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_with_names_once)
    except InvalidGoal:
        raise
    except (ValueError, RecursionError):
        raise InvalidGoal({"_schema": ["must be one JSON object on one line"]}) from None
    if not isinstance(value, Mapping):
        raise InvalidGoal({"_schema": ["must be a JSON object"]})
    return value


def _with_names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, of which Python would keep the last of two values silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidGoal({"_schema": ["has one name twice: give each name once"]})
    return found


def _print_enqueued(line: int, message: Message, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json({"line": line, "delivery_id": message.delivery_id, "messages": None})
    elif not dry_run:
        click.echo(message.delivery_id)

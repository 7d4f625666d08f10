"""``dead``: look at dead letters, replay them, discard them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from ..config import settings_of
from ..dead_letters.replay import replay as replay_letters
from ..dead_letters.store import REASONS, DeadLetterStore, StoredLetter
from ..delivery.state import Keys, connect
from ..message import batches
from .output import as_json_option, confirm, print_json, print_table, say

__all__ = ["dead"]

_DISCARD_BATCH = 500

reason_option = click.option(
    "--reason",
    "reasons",
    type=click.Choice(REASONS),
    multiple=True,
    help="Only letters with this reason; may be repeated.",
)
all_option = click.option("--all", "everything", is_flag=True, help="All letters.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
ids_argument = click.argument("delivery_ids", nargs=-1, metavar="[DELIVERY_ID]...")


@click.group()
def dead() -> None:
    """List, show, replay or discard what was not delivered."""


@dead.command(name="list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@all_option
@reason_option
@as_json_option
@click.pass_context
def list_(
    ctx: click.Context, *, limit: int, everything: bool, reasons: tuple[str, ...], as_json: bool
) -> None:
    """List dead letters, the newest first.

    The table shows no payloads and no answers of the API, which can hold personal data. With --json
    each letter is one object on one line, with its payload.
    """
    store = _store(ctx)
    letters = (stored.letter for stored in _matching(store, reasons))
    shown = letters if everything else islice(letters, limit)
    if as_json:
        for letter in shown:
            print_json(letter.summary())
        return
    rows = [
        (
            (one.died_at or "")[:19],
            one.delivery_id,
            one.reason,
            one.error,
            one.attempts,
            one.replays,
        )
        for one in shown
    ]
    total = store.count()
    columns = ("died (UTC)", "delivery id", "reason", "error", "attempts", "replays")
    print_table(f"Dead letters ({len(rows)} of {total})", columns, rows)


@dead.command()
@click.argument("delivery_id")
@as_json_option
@click.pass_context
def show(ctx: click.Context, *, delivery_id: str, as_json: bool) -> None:
    """Show one dead letter whole, with its payload and the API's answer."""
    letter = asdict(_get(_store(ctx), delivery_id).letter)
    if as_json:
        print_json(letter)
    else:
        rows = [(name, _text(value)) for name, value in letter.items()]
        print_table(f"Dead letter {delivery_id}", ("", ""), rows)


@dead.command()
@ids_argument
@all_option
@reason_option
@click.option("--dry-run", is_flag=True, help="Only count what would be queued.")
@yes_option
@as_json_option
@click.pass_context
def replay(
    ctx: click.Context,
    *,
    delivery_ids: tuple[str, ...],
    everything: bool,
    reasons: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put dead letters back on the queue, with the same ids and the same times.

    A letter whose payload is still invalid is skipped and stays. The exit code is 1 if the broker
    did not confirm some of them; those stay too.
    """
    store = _store(ctx)
    letters = _selected(store, delivery_ids, everything=everything, reasons=reasons)
    if not dry_run:
        confirm("Send these goals to Sales Ninja again?", yes=yes)
    result = replay_letters(ctx.obj.app, store, letters, dry_run=dry_run)
    if as_json:
        print_json({"plan": dry_run, **asdict(result)})
    else:
        say(
            f"{'would queue' if dry_run else 'queued'}: {result.queued} of {result.matched}; "
            f"skipped, because they are still invalid: {result.skipped}; failed: {result.failed}"
        )
    if result.failed:
        ctx.exit(1)


@dead.command()
@ids_argument
@all_option
@reason_option
@yes_option
@click.pass_context
def discard(
    ctx: click.Context,
    *,
    delivery_ids: tuple[str, ...],
    everything: bool,
    reasons: tuple[str, ...],
    yes: bool,
) -> None:
    """Delete dead letters for good."""
    store = _store(ctx)
    letters = _selected(store, delivery_ids, everything=everything, reasons=reasons)
    confirm("Delete these dead letters for good?", yes=yes)
    discarded = sum(store.discard(*batch) for batch in batches(letters, _DISCARD_BATCH))
    say(f"discarded: {discarded}")


def _store(ctx: click.Context) -> DeadLetterStore:
    settings = settings_of(ctx.obj.app)
    return DeadLetterStore(connect(settings), Keys(settings.key_prefix))


def _get(store: DeadLetterStore, delivery_id: str) -> StoredLetter:
    stored = store.get(delivery_id)
    if stored is None:
        raise click.ClickException(f"there is no dead letter {delivery_id}")
    return stored


def _matching(store: DeadLetterStore, reasons: tuple[str, ...]) -> Iterator[StoredLetter]:
    return (one for one in store.newest() if not reasons or one.letter.reason in reasons)


def _selected(
    store: DeadLetterStore,
    delivery_ids: tuple[str, ...],
    *,
    everything: bool,
    reasons: tuple[str, ...],
) -> Iterator[StoredLetter]:
    """Return the letters that a command names in one of the three ways."""
    if sum((bool(delivery_ids), everything, bool(reasons))) != 1:
        raise click.UsageError("name delivery ids, or --all, or --reason")
    if delivery_ids:
        return iter([_get(store, delivery_id) for delivery_id in delivery_ids])
    return _matching(store, reasons)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, indent=1)

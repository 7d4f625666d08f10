"""``fake-api``: a Sales Ninja to develop against, since the real one has no sandbox."""

from __future__ import annotations

import threading

import click

from ..testing import Answer, FakeSalesNinja, ReceivedGoal
from .output import as_json_option, print_json, say

__all__ = ["fake_api"]


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--status", default=200, show_default=True, help="What valid goals are answered.")
@click.option("--retry-after", type=click.IntRange(min=0), help="Seconds, sent as Retry-After.")
@click.option(
    "--delay", "delay_seconds", default=0.0, show_default=True, help="Seconds before each answer."
)
@as_json_option
def fake_api(
    *, port: int, status: int, retry_after: int | None, delay_seconds: float, as_json: bool
) -> None:
    """Run a fake Sales Ninja on this machine.

    It is as strict about a goal as the documentation of the API, and prints what arrives until
    Ctrl-C ends it. Point a worker at it with NINJA_API_URL.
    """

    def show(received: ReceivedGoal) -> None:
        if as_json:
            print_json({"delivery_id": received.delivery_id, "status": received.status})
        else:
            click.echo(f"{received.at:%H:%M:%S}  {received.status}  {received.delivery_id}")

    try:
        api = FakeSalesNinja(port, keep_bodies=False, on_request=show)
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used: {error.strerror}") from error
    try:
        api.default = Answer(status, retry_after=retry_after, delay_seconds=delay_seconds)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with api:
        say(f"fake Sales Ninja at {api.url} (Ctrl-C ends it)\nexport NINJA_API_URL={api.url}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say(f"{len(api.delivered)} of {len(api.requests)} requests were accepted")

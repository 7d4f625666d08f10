"""The command line: ``ninja-tasks ...`` and ``celery -A shop ninja ...`` are the same commands.

Exit codes: 0 done, 1 the work failed or found a fault, 2 wrong usage or setting. What a script
reads goes to standard output; progress and messages for people go to standard error.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
import redis
from celery.app.utils import find_app
from celery.utils.imports import cwd_in_path
from kombu.exceptions import OperationalError

from ..config import SETTINGS
from ..errors import ConfigurationError, NinjaTasksError

__all__ = ["main", "ninja"]

#: Module of each command; a module is loaded when its command or the list of commands is wanted.
_COMMANDS = {
    "check": "preflight",
    "dead": "letters",
    "demo": "demo",
    "enqueue": "importing",
    "fake-api": "fake_api",
    "pause": "operations",
    "resume": "operations",
    "stats": "operations",
    "status": "operations",
}


class NinjaGroup(click.Group):
    """A group that loads its commands lazily and turns exceptions into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, ``None`` for an unknown name."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"{__package__}.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        except (NinjaTasksError, OperationalError, redis.RedisError) as error:
            raise click.ClickException(str(error)) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings below the commands."""
        rows = [
            (
                setting.environment_variable,
                f"{setting.meaning} [default: {_shown(setting.default)}]",
            )
            for setting in SETTINGS
        ]
        with formatter.section("Settings (environment, or ninja_<name> in Celery's configuration)"):
            formatter.write_dl(
                [("CELERY_BROKER_URL", "The broker, where it is not in the configuration."), *rows]
            )


@click.command(
    cls=NinjaGroup,
    name="ninja-tasks",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-A",
    "--app",
    "application",
    metavar="MODULE",
    help="The Celery application to work with.  [default: ninja_tasks]",
)
@click.version_option(package_name="ninja-tasks", prog_name="ninja-tasks")
@click.pass_context
def main(ctx: click.Context, application: str | None) -> None:
    """Goal conversions into Sales Ninja, without losing any."""
    with cwd_in_path():
        ctx.obj = _LoadedApplication(find_app(application or "ninja_tasks"))


@click.command(cls=NinjaGroup, name="ninja")
def ninja() -> None:
    """Goal conversions into Sales Ninja (ninja-tasks)."""


class _LoadedApplication:
    """What commands find in ``ctx.obj``; Celery's own command line puts a like object there."""

    def __init__(self, app: Any) -> None:
        self.app = app


def _shown(default: Any) -> str:
    return "none" if default is None else str(default)

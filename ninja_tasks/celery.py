"""The worker side of a Celery application: ``install(app)``, and the app of
``celery -A ninja_tasks``.

Importing this module creates no application and imports neither ``requests`` nor ``sentry_sdk``:
the task, its queue, its steps and Sentry are set up when ``celery worker`` starts. Whatever else
imports the application pays nothing for it and is not changed: a web process, beat, Flower, a
shell, a worker in a thread of a test.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakSet

from celery import Celery
from celery.signals import celeryd_after_setup, celeryd_init, worker_shutting_down
from celery.utils.collections import match_case
from celery.utils.imports import cwd_in_path

from .config import settings_of
from .dead_letters.log_events import limit_log_events
from .dead_letters.report import initialise_sentry
from .errors import ConfigurationError
from .message import QUEUE_NAME, TASK_NAME, goal_queue

__all__ = ["app", "install"]  # noqa: F822 (made on first use)

logger = logging.getLogger(__name__)

#: Added to other applications: nothing. It marks a configuration whose changes are followed.
_NO_DEFAULTS: dict[str, Any] = {}

#: Only for the application of this package, which has no other tasks.
_OWN_DEFAULTS = {
    "broker_url": "redis://localhost:6379/0",
    "task_default_queue": QUEUE_NAME,
    "task_ignore_result": True,
    "task_create_missing_queues": False,
    "accept_content": ["json"],
    # Else a worker gives up on a broker that is away for long.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A RabbitMQ node that comes back still holds the exclusive queues of lost connections.
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}
#: The pool that serves goals best, unless the command line or the configuration names one: Celery
#: cannot tell a pool that a person chose from its own default.
_OWN_POOL = {"worker_pool": "threads", "worker_concurrency": 32}
_ROUTE = {TASK_NAME: {"queue": QUEUE_NAME}}

#: Named, not imported: only a worker needs them.
_STEPS = tuple(
    f"{__package__}.worker.{name}"
    for name in (
        "malformed:Malformed",
        "heartbeat:Heartbeats",
        "goals:Goals",
        "health:Liveness",
        "steps:Mover",
        "steps:Intake",
        "steps:Reporter",
    )
)
_INSTALLED: WeakSet[Celery] = WeakSet()


def install(app: Celery) -> Celery:
    """Make an existing Celery application able to deliver goals.

    Its workers get the task ``ninja_tasks.reach_goal`` and consume the queue ``ninja_tasks`` beside
    their own, unless ``-Q`` names others. Goals are taken over a connection or a channel of their
    own: how the workers take the application's own tasks does not change, and nothing but ``celery
    worker`` does anything else than before. May be called before or after the application is
    configured, more than once, and for several applications of a process.

    Args:
        app: the application.

    Returns:
        The same application.
    """
    # Celery sends it again whenever it reads the configuration anew.
    app.on_after_configure.connect(_configure, weak=False)
    if app.configured:
        _configure(app, app.conf)
    _INSTALLED.add(app)
    celeryd_init.connect(_prepare_worker, weak=False)
    celeryd_after_setup.connect(_check_worker, weak=False)
    worker_shutting_down.connect(_tell_of_the_end, weak=False)
    return app


def _configure(sender: Celery, source: Any, **signal: Any) -> None:
    """Add the route to an application's configuration, and to our own its defaults, once."""
    is_own = sender.main == __package__
    defaults = _OWN_DEFAULTS if is_own else _NO_DEFAULTS
    if not any(one is defaults for one in source.maps):
        # Celery's add_defaults would put these above the settings of a configuration module.
        source.maps.insert(-1, defaults)
        source.bind_to(lambda *_names, **_values: _configure(sender, source))
    if is_own and not _names_pool(source):
        source.maps.insert(-1, _OWN_POOL)
    routes = source.task_routes or ()
    if isinstance(routes, str) or not isinstance(routes, Sequence):
        routes = (routes,)
    if _ROUTE not in routes:
        source[_name_in(source, "task_routes")] = (_ROUTE, *routes)
        _forget_routes(sender)


def _name_in(configuration: Any, name: str) -> str:
    """Return how a configuration calls a setting, which has a prefix and capitals in Django's.

    Before version 5.7 Celery looks for this name in all layers first.
    """
    prefix = configuration.prefix
    return match_case(f"{prefix}{name}", prefix) if prefix else name


def _names_pool(configuration: Any) -> bool:
    in_command = any(word.startswith(("-P", "--pool")) for word in sys.argv)
    # The last one has Celery's own defaults.
    return in_command or any("worker_pool" in one for one in configuration.maps[:-1])


def _forget_routes(app: Celery) -> None:
    """Let an application that has published already look at its routes again."""
    if "amqp" in vars(app):
        app.amqp.flush_routes()
        app.amqp.router = app.amqp.Router()


def _prepare_worker(instance: Any, **signal: Any) -> None:
    """Set up all that only a worker needs; runs in the parent before it forks.

    Raises:
        SystemExit: if that fails. Of any other exception Celery writes a line, and its worker goes
            on without goals.
    """
    if instance.app not in _INSTALLED:
        return
    try:
        _set_up(instance.app)
    except ConfigurationError as error:
        raise SystemExit(f"Error: {error}") from None
    except Exception as error:
        logger.exception("the worker cannot deliver goals")
        raise SystemExit(1) from error


def _set_up(app: Celery) -> None:
    settings = settings_of(app)
    if settings.sentry_dsn:
        try:
            initialise_sentry(settings.sentry_dsn)
        except ConfigurationError as error:
            logger.error("going on without Sentry: %s", error)
    limit_log_events()
    if app.main == __package__:
        # A worker for goals alone can start on a Redis that its goals have filled, and drain it.
        patient = importlib.import_module(f"{__package__}.full_redis").patient
        connect = app.amqp.Connection
        app.amqp.Connection = lambda *given, **named: patient(connect(*given, **named))
    importlib.import_module(f"{__package__}.tasks")
    app.steps["consumer"].update(_STEPS)
    app.amqp.queues.select_add(goal_queue(app))
    # The first collection of garbage in each child would copy all memory that it shares with us.
    gc.collect()
    gc.freeze()


def _check_worker(instance: Any, **signal: Any) -> None:
    """Say what is wrong with the set-up, where the log is ready and nothing has begun."""
    # Applications set Sentry up when they are imported, or by a signal that came before this one.
    limit_log_events()
    # Another application of this process may have a worker that delivers no goals.
    if instance.app in _INSTALLED:
        importlib.import_module(f"{__package__}.preflight").report_at_start(instance.app)


def _tell_of_the_end(**signal: Any) -> None:
    importlib.import_module(f"{__package__}.delivery.stopping").stop()


@cache
def _own_app() -> Celery:
    own = Celery(__package__)
    install(own)
    with cwd_in_path():
        if importlib.util.find_spec("celeryconfig") is not None:
            own.config_from_object("celeryconfig")
            own.conf.broker_url  # noqa: B018 (read while the directory is importable)
    return own


def __getattr__(name: str) -> Any:
    if name == "app":
        return _own_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

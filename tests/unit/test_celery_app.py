"""The worker side: installed into an application, or as the application of this package."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.utils import find_app
from stack import clean_environment, tell_of_worker

from ninja_tasks import DeadLettered, TransientError, install
from ninja_tasks.config import SETTINGS, settings_of

TASK = "ninja_tasks.reach_goal"
ROUTE = {TASK: {"queue": "ninja_tasks"}}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker="redis://localhost:1/0", set_as_current=False)


def route(*arguments: Any) -> None:
    """Stand for a router of the application."""


@pytest.mark.parametrize(
    ("routes", "merged"),
    [
        (None, [ROUTE]),
        ({"shop.*": "shop"}, [ROUTE, {"shop.*": "shop"}]),
        ([{"shop.*": "shop"}], [ROUTE, {"shop.*": "shop"}]),
        ("shop.router", [ROUTE, "shop.router"]),
        (route, [ROUTE, route]),
    ],
)
@pytest.mark.parametrize("configured_first", [True, False])
def test_the_routes_of_the_application_are_kept(
    app: Celery, routes: Any, merged: list[Any], configured_first: bool
) -> None:
    if configured_first:
        app.conf.task_routes = routes
        assert app.conf.broker_url
        install(app)
    else:
        install(app)
        app.config_from_object({"task_routes": routes, "broker_url": "redis://localhost:1/0"})
    assert list(app.conf.task_routes) == merged


@pytest.mark.parametrize("configured_first", [True, False])
@pytest.mark.parametrize("way", ["object", "assignment", "constructor"])
def test_the_settings_of_the_application_win(way: str, configured_first: bool) -> None:
    setting = {"broker_connection_max_retries": 3}
    app = Celery("shop", set_as_current=False, changes=setting if way == "constructor" else None)
    if not configured_first:
        install(app)
    if way == "object":
        app.config_from_object(setting)
    if way == "assignment":
        app.conf.update(setting)
    if configured_first:
        assert app.conf.broker_connection_max_retries == 3
        install(app)
    assert app.conf.broker_connection_max_retries == 3


def test_no_setting_of_an_application_is_changed_but_its_routes(app: Celery) -> None:
    plain = Celery("shop", broker="redis://localhost:1/0", set_as_current=False)
    install(install(app))
    assert app.conf.broker_url
    changed = {name for name in plain.conf if app.conf[name] != plain.conf[name]}
    assert changed == {"task_routes"}
    assert app.steps == plain.steps


def test_an_application_that_is_not_installed_gets_nothing_from_its_worker(app: Celery) -> None:
    install(Celery("other", broker="redis://localhost:1/0", set_as_current=False))
    tell_of_worker(app)
    assert app.steps["consumer"] == set()
    assert "ninja_tasks" not in app.amqp.queues


@pytest.mark.parametrize(
    "configuration",
    [
        {"broker_url": ["redis://one.example/0", "redis://two.example/0"]},
        {"broker_url": "redis://one.example/0;redis://two.example/0"},
        {"broker_read_url": "redis://one.example/0"},
        {"broker_read_url": ["redis://one.example/0", "redis://two.example/0"]},
    ],
)
def test_the_first_address_of_the_broker_serves_the_state(
    app: Celery, configuration: dict[str, Any]
) -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(configuration)
    tell_of_worker(install(app))
    assert settings_of(app).redis_url == "redis://one.example/0"


def test_a_worker_gets_the_task_and_consumes_its_queue_beside_the_others(app: Celery) -> None:
    tell_of_worker(install(app))
    task = app.tasks[TASK]
    assert {"celery", "ninja_tasks"} <= set(app.amqp.queues.consume_from)
    assert (task.acks_late, task.reject_on_worker_lost, task.ignore_result) == (True, True, True)
    assert (task.autoretry_for, task.throws) == ((TransientError,), (DeadLettered,))
    assert (task.retry_backoff, task.retry_backoff_max, task.retry_jitter) == (2, 600, True)


def test_a_worker_consumes_only_what_it_was_told_to(app: Celery) -> None:
    tell_of_worker(install(app))
    app.amqp.queues.select(["celery"])
    assert set(app.amqp.queues.consume_from) == {"celery"}


@pytest.mark.parametrize(
    "url",
    [
        "redis://one.example/0",
        "rediss://one.example/0",
        "redis+socket:///run/redis.sock",
        "sentinel://one.example:26379/0",
        "amqp://one.example//",
    ],
)
def test_a_worker_of_an_application_keeps_its_connection_to_the_broker(
    app: Celery, url: str
) -> None:
    app.conf.broker_url = url
    app.conf.ninja_redis_url = "redis://one.example/1"
    before = app.connection_for_read()
    tell_of_worker(install(app))
    after = app.connection_for_read()
    assert after.get_transport_cls() is before.get_transport_cls()
    assert after.info() == before.info()


@pytest.mark.parametrize("url", ["redis://one.example/0", "sentinel://one.example:26379/0"])
def test_the_own_worker_bears_with_a_full_redis(url: str) -> None:
    own = install(Celery("ninja_tasks", set_as_current=False))
    own.conf.update(broker_url=url, ninja_redis_url="redis://one.example/1")
    stock = own.connection_for_read().get_transport_cls()
    tell_of_worker(own)
    found = own.connection_for_read()
    assert found.get_transport_cls() is not stock
    assert issubclass(found.get_transport_cls(), stock)
    assert found.as_uri().startswith(url.partition("one")[0])


def test_a_worker_with_a_broken_setting_does_not_start(app: Celery) -> None:
    app.conf.ninja_max_attempts = "many"
    with pytest.raises(SystemExit, match="Error: ninja_max_attempts must be a whole number"):
        tell_of_worker(install(app))


def test_a_malformed_dsn_is_said_and_stops_nothing(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.ninja_sentry_dsn = "geheim"
    with caplog.at_level(logging.ERROR):
        tell_of_worker(install(app))
    assert "ninja_sentry_dsn is no Sentry DSN" in caplog.text
    assert "geheim" not in caplog.text
    assert TASK in app.tasks


def run(code: str, directory: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_importing_the_module_leaves_the_current_application_alone(tmp_path: Path) -> None:
    code = """
import celery
shop = celery.Celery("shop")
import ninja_tasks.celery
apps = {app().main for app in celery._state._get_active_apps().data}
print(celery._state.get_current_app().main, "ninja_tasks" in apps)
"""
    assert run(code, tmp_path) == "shop False\n"


def test_the_own_application_is_found_by_name(tmp_path: Path) -> None:
    assert find_app("ninja_tasks") is find_app("ninja_tasks")
    code = "from ninja_tasks.celery import app; print(app.conf.broker_url)"
    assert run(code, tmp_path) == "redis://localhost:6379/0\n"
    more = "; print(app.conf.broker_connection_max_retries, app.conf.broker_channel_error_retry)"
    assert run(code + more, tmp_path) == "redis://localhost:6379/0\nNone True\n"
    elsewhere = "redis://elsewhere:6379/1"
    assert run(code, tmp_path, CELERY_BROKER_URL=elsewhere) == f"{elsewhere}\n"


def test_a_celeryconfig_in_the_directory_overrides(tmp_path: Path) -> None:
    tmp_path.joinpath("celeryconfig.py").write_text("worker_prefetch_multiplier = 7\n")
    code = "from ninja_tasks.celery import app; print(app.conf.worker_prefetch_multiplier)"
    assert run(code, tmp_path) == "7\n"


def test_the_shipped_celeryconfig_overrides_nothing_and_explains_every_setting() -> None:
    names: dict[str, Any] = {}
    text = ROOT.joinpath("celeryconfig.py").read_text()
    exec(text, names)  # noqa: S102 (reading our own configuration file)
    assert {name for name in names if not name.startswith("__")} == set()
    for setting in SETTINGS:
        assert f"``{setting.configuration_key}" in text
        assert f"(``{setting.environment_variable}``" in text
        assert setting.default is None or repr(setting.default).strip("'") in text


def test_the_readme_names_every_setting() -> None:
    text = ROOT.joinpath("README.md").read_text()
    assert all(f"`{setting.name}`" in text for setting in SETTINGS)


def settings_module(directory: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    directory.joinpath(f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(directory))
    return name


def routed_to(app: Celery) -> str:
    queue: str = app.amqp.router.route({}, TASK, args=(), kwargs={})["queue"].name
    return queue


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("used_before", [True, False])
def test_a_configuration_that_is_read_after_install_keeps_the_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, used_before: bool
) -> None:
    text = 'task_routes = {"shop.*": {"queue": "shop"}}\nbroker_connection_timeout = 7\n'
    name = settings_module(tmp_path, f"late_{times}_{used_before}", text, monkeypatch)
    app = Celery("shop", broker="redis://localhost:1/0", set_as_current=False)
    assert app.conf.broker_url
    for _ in range(times):
        install(app)
    if used_before:
        assert routed_to(app) == "ninja_tasks"
    app.config_from_object(name)
    assert app.conf.broker_connection_timeout == 7
    assert list(app.conf.task_routes) == [ROUTE, {"shop.*": {"queue": "shop"}}]
    assert routed_to(app) == "ninja_tasks"


def test_routes_that_are_set_later_do_not_take_ours_away(app: Celery) -> None:
    install(app)
    assert routed_to(app) == "ninja_tasks"
    app.conf.update({"task_routes": {"shop.*": {"queue": "shop"}}})
    assert list(app.conf.task_routes) == [ROUTE, {"shop.*": {"queue": "shop"}}]
    assert routed_to(app) == "ninja_tasks"


def test_an_application_that_has_published_before_gets_the_route(app: Celery) -> None:
    assert app.amqp.router
    install(app)
    assert routed_to(app) == "ninja_tasks"


def test_several_applications_of_a_process_keep_their_own_settings() -> None:
    one, other, bare = (Celery(name, set_as_current=False) for name in ("one", "other", "bare"))
    one.conf.broker_connection_max_retries = 3
    install(one)
    install(other)
    found = [app.conf.broker_connection_max_retries for app in (one, other, bare)]
    assert found == [3, 100, 100]
    assert bare.conf.task_routes is None


def test_djangos_settings_are_read_before_and_after_install(tmp_path: Path) -> None:
    text = """
CELERY_BROKER_URL = "redis://localhost:1/0"
CELERY_NINJA_RATE_LIMIT = "20/s"
CELERY_TASK_ROUTES = {"shop.*": {"queue": "shop"}}
"""
    tmp_path.joinpath("shop_settings.py").write_text(text)
    code = """
import celery
from ninja_tasks import install
from ninja_tasks.config import settings_of
for install_first in (True, False):
    app = celery.Celery("shop")
    install_first and install(app)
    app.config_from_object("django.conf:settings", namespace="CELERY")
    install_first or install(app)
    queue = app.amqp.router.route({}, "ninja_tasks.reach_goal")["queue"]
    print(settings_of(app).rate_limit.goals, len(app.conf.task_routes),
          [*app.conf.task_routes][1], queue.name)
"""
    line = "20 2 {'shop.*': {'queue': 'shop'}} ninja_tasks\n"
    assert run(code, tmp_path, DJANGO_SETTINGS_MODULE="shop_settings") == line * 2


@pytest.mark.parametrize(
    ("words", "pool", "slots"),
    [
        ((), "thread", 32),
        (("-c", "3"), "thread", 3),
        (("-P", "prefork", "-c", "2"), "prefork", 2),
        (("--pool=solo",), "solo", None),
        (("-Psolo",), "solo", None),
        (("--pool", "prefork"), "prefork", None),
    ],
)
def test_the_own_worker_has_threads_unless_it_is_told_otherwise(
    tmp_path: Path, words: tuple[str, ...], pool: str, slots: int | None
) -> None:
    code = f"""
import os, sys
sys.argv = ["celery", "-A", "ninja_tasks", "worker", *{words!r}]
from celery.signals import celeryd_after_setup

@celeryd_after_setup.connect
def look(instance, **signal):
    print("found", instance.pool_cls.__module__, instance.concurrency, flush=True)
    os._exit(0)

from celery.__main__ import main
main()
"""
    told = run(code, tmp_path, CELERY_BROKER_URL="redis://127.0.0.1:1/0").partition("found ")[2]
    found, number = told.split()[:2]
    assert found == f"celery.concurrency.{pool}"
    assert slots in (None, int(number))
    assert slots is not None or int(number) != 32


def test_a_celeryconfig_names_the_pool_of_the_own_worker(tmp_path: Path) -> None:
    tmp_path.joinpath("celeryconfig.py").write_text('worker_pool = "prefork"\n')
    code = "from ninja_tasks.celery import app as a"
    code += "; print(a.conf.worker_pool, a.conf.worker_concurrency)"
    # As many processes as threads would be too many: Celery counts the processors.
    assert run(code, tmp_path) == "prefork None\n"

"""Settings that nobody reads are named, with the name that would be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from stack import clean_environment

from ninja_tasks import install
from ninja_tasks.config import SETTINGS
from ninja_tasks.preflight.settings import look_for_unread_settings


def told(app: Celery, environment: dict[str, str] | None = None) -> list[str]:
    found = look_for_unread_settings(app, environment or {})
    assert all("geheim" not in f"{one}" for one in found)
    return [f"{one.message}; {one.remedy}" for one in found if one.level != "ok"]


def application(source: Any = None) -> Celery:
    app = install(Celery("shop", broker="redis://localhost:1/0", set_as_current=False))
    if source is not None:
        app.config_from_object(source)
    return app


def test_an_application_without_mistakes_is_well() -> None:
    every = {one.configuration_key: "1" for one in SETTINGS}
    variables = {one.environment_variable: "1" for one in SETTINGS}
    assert told(application(every), variables | {"NINJA_STATUS": "%f", "PATH": ""}) == []
    assert [one.level for one in look_for_unread_settings(application(), {})] == ["ok"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ninja_ratelimit", "did you mean ninja_rate_limit?"),
        ("ninja_colour", "ninja-tasks --help"),
        ("NINJA_RATE_LIMIT", "did you mean ninja_rate_limit?"),
        ("CELERY_NINJA_RATE_LIMIT", "did you mean ninja_rate_limit?"),
    ],
)
def test_a_name_in_celerys_configuration_that_is_not_read(name: str, remedy: str) -> None:
    (line,) = told(application(SimpleNamespace(**{name: "geheim"})))
    assert line.startswith(f"{name} in Celery's configuration is not read")
    assert remedy in line


def test_a_setting_that_is_assigned_is_looked_at_too() -> None:
    app = application()
    app.conf.ninja_max_attempt = 3
    assert told(app) == [
        "ninja_max_attempt in Celery's configuration is not read; did you mean ninja_max_attempts?"
    ]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("NINJA_RATELIMIT", "did you mean NINJA_RATE_LIMIT?"),
        ("ninja_rate_limit", "did you mean NINJA_RATE_LIMIT?"),
        ("CELERY_NINJA_RATE_LIMIT", "did you mean NINJA_RATE_LIMIT?"),
        ("NINJA_FLAVOUR", "ninja-tasks --help"),
    ],
)
def test_a_variable_of_the_environment_that_is_not_read(name: str, remedy: str) -> None:
    (line,) = told(application(), {name: "geheim"})
    assert line.startswith(f"{name} in the environment is not read")
    assert remedy in line


SHOP = """
CELERY_BROKER_URL = "redis://localhost:1/0"
NINJA_RATE_LIMIT = "geheim"
NINJA_PAGINATION_PER_PAGE = 10
CELERY_NINJA_MAX_ATTEMPT = 3
CELERY_NINJA_API_URL = "http://127.0.0.1:1"
"""
LOOK = """
import os
import celery
from ninja_tasks import install
from ninja_tasks.preflight.settings import look_for_unread_settings
app = install(celery.Celery("shop"))
{configure}
for one in look_for_unread_settings(app, os.environ):
    print(one.level, one.message, one.remedy, sep="; ")
"""


def in_django(directory: Path, configure: str) -> list[str]:
    directory.joinpath("shop_settings.py").write_text(SHOP)
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(configure=configure)],
        cwd=directory,
        env=clean_environment(DJANGO_SETTINGS_MODULE="shop_settings"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "geheim" not in done.stdout + done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


def test_in_djangos_settings_the_namespace_is_told(tmp_path: Path) -> None:
    configure = 'app.config_from_object("django.conf:settings", namespace="CELERY")'
    assert in_django(tmp_path, configure) == [
        "warning; CELERY_NINJA_MAX_ATTEMPT in Django's settings is not read; "
        "did you mean CELERY_NINJA_MAX_ATTEMPTS?",
        "warning; NINJA_RATE_LIMIT in Django's settings is not read; "
        "did you mean CELERY_NINJA_RATE_LIMIT?",
    ]


def test_djangos_settings_beside_another_configuration_are_looked_at(tmp_path: Path) -> None:
    configure = "from django.conf import settings; settings.DEBUG"
    lines = in_django(tmp_path, configure)
    assert [line.split()[1] for line in lines] == [
        "CELERY_NINJA_API_URL",
        "CELERY_NINJA_MAX_ATTEMPT",
        "NINJA_RATE_LIMIT",
    ]
    assert all('namespace="CELERY"' in line for line in lines)

"""Settings that nobody reads: misspelled, or written where or how Celery does not look for them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery import Celery

from ..config import SETTINGS
from .finding import OK, WARNING, Finding

__all__ = ["look_for_unread_settings"]

_KEYS = {one.configuration_key for one in SETTINGS}
#: Alike enough to be meant; "ratelimit" is, and what other packages call ``NINJA_...`` is not.
_ALIKE = 0.8
#: Of the build tool "ninja".
_FOREIGN = {"NINJA_STATUS"}


def look_for_unread_settings(app: Celery, environment: Mapping[str, str]) -> list[Finding]:
    """Return a warning for each name that looks like a setting and is not read.

    Args:
        app: the application.
        environment: ``os.environ``.
    """
    app.conf.finalize()
    found = [
        *_in_configuration(app),
        *_in_environment(environment),
        *_in_django_beside_celery(app),
    ]
    if found:
        return found
    return [Finding(OK, "settings", "every setting of ninja_tasks that is given is read")]


def _in_configuration(app: Celery) -> Iterator[Finding]:
    prefix = app.conf.prefix or ""
    is_djangos = any(_is_django(one) for one in app.conf.maps)
    place = "Django's settings" if is_djangos else "Celery's configuration"
    for name in sorted(_names(app.conf.maps)):
        key = name.lower().removeprefix(prefix.lower()).removeprefix("celery_")
        right = _cased(prefix, key)
        if not key.startswith("ninja_") or (key in _KEYS and name in (key, right)):
            continue
        meant = key if key in _KEYS else _most_like(key)
        # Settings that are called so can be another package's, but for these beginnings.
        if meant or name.startswith(("ninja_", _cased(prefix, "ninja_"))):
            yield _unread(name, place, meant and _cased(prefix, meant))


def _in_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in sorted(environment):
        key = name.lower().removeprefix("celery_")
        if key.startswith("ninja_") and name not in _FOREIGN:
            meant = key if key in _KEYS else _most_like(key)
            if meant is None or name != meant.upper():
                yield _unread(name, "the environment", meant and meant.upper())


def _in_django_beside_celery(app: Celery) -> Iterator[Finding]:
    """Look at Django's settings where the application's configuration does not come from them."""
    django = sys.modules.get("django.conf")
    if django is None or not django.settings.configured:
        return
    if any(_is_django(one) for one in app.conf.maps):
        return
    for name in sorted(_names([django.settings])):
        key = name.lower().removeprefix("celery_")
        meant = key if key in _KEYS else _most_like(key)
        if key.startswith("ninja_") and meant:
            yield Finding(
                WARNING,
                "settings",
                f"{name} in Django's settings is not read: this Celery application does not take "
                "its configuration from them",
                f"write CELERY_{meant.upper()}, and call "
                'app.config_from_object("django.conf:settings", namespace="CELERY")',
            )


def _unread(name: str, place: str, meant: str | None) -> Finding:
    return Finding(
        WARNING,
        "settings",
        f"{name} in {place} is not read"
        + ("" if meant else ": ninja_tasks has no setting of that name"),
        f"did you mean {meant}?" if meant else "ninja-tasks --help lists the settings",
    )


def _cased(prefix: str, key: str) -> str:
    """Write a key the way Celery reads it, with the namespace of ``config_from_object``."""
    name = prefix + key
    return name.upper() if prefix.isupper() else name


def _most_like(key: str) -> str | None:
    return next(iter(difflib.get_close_matches(key, _KEYS, 1, _ALIKE)), None)


def _names(sources: Iterable[Any]) -> set[str]:
    found: set[str] = set()
    for one in sources:
        names = one.keys() if hasattr(one, "keys") else dir(one)
        found |= {name for name in names if isinstance(name, str)}
    return found


def _is_django(source: Any) -> bool:
    django = sys.modules.get("django.conf")
    return django is not None and getattr(source, "obj", None) is django.settings

"""The layout: floors, no cycles, public names, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from stack import clean_environment

import ninja_tasks

PACKAGE = Path(ninja_tasks.__file__).parent

#: A module imports only from floors below its own; a folder's modules are on one floor together.
FLOORS = {
    "addresses": 0,
    "errors": 0,
    "config": 0,
    "goals": 0,
    "redis_errors": 0,
    "tested": 0,
    "broker": 1,
    "full_redis": 1,
    "delivery_ids": 1,
    "schemas": 1,
    "validation": 1,
    "message": 1,
    "outbox": 2,
    "producer": 3,
    "delivery": 3,
    "dead_letters": 4,
    "tasks": 5,
    "status": 5,
    "preflight": 5,
    "worker": 5,
    "__init__": 6,
    "celery": 6,
    "testing": 6,
    "cli": 7,
}

#: ``install`` is a public name, loaded on first use; a setting that is wrong is one of the errors,
#: and some settings are addresses; what is not plainly a goal is looked at by the schema; a message
#: goes by the way to the broker, which may be a full Redis.
ALLOWED_ON_ONE_FLOOR = {
    ("__init__", "celery"),
    ("broker", "full_redis"),
    ("config", "addresses"),
    ("config", "errors"),
    ("message", "broker"),
    ("validation", "schemas"),
}
_LONGEST_STORY = 60


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(name: str) -> str:
    return name.split(".")[0]


def imported_by(path: Path) -> set[str]:
    """Return the package's modules that a module imports, wherever in it the import stands."""
    here = ["ninja_tasks", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {target, *(f"{target}.{alias.name}" for alias in node.names)}
    inside = {
        name.removeprefix("ninja_tasks.") for name in found if name.startswith("ninja_tasks.")
    }
    known = {name_of(module) for module in modules()}
    return {name for name in inside if name in known} | {
        f"{name}.__init__" for name in inside if f"{name}.__init__" in known
    }


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_floors_below_its_own(path: Path) -> None:
    name = name_of(path)
    assert room_of(name) in FLOORS, f"give {name} a floor"
    for imported in imported_by(path):
        pair = room_of(name), room_of(imported)
        if pair[0] != pair[1] and pair not in ALLOWED_ON_ONE_FLOOR:
            assert FLOORS[pair[1]] < FLOORS[pair[0]], f"{name} imports {imported}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name_of(path): imported_by(path) for path in modules()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join((*way, name))
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in modules()}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_says_what_it_is_for_and_what_is_public(path: Path) -> None:
    name = ".".join(["ninja_tasks", *name_of(path).removesuffix("__init__").split(".")]).strip(".")
    module = import_module(name)
    assert module.__doc__
    public = getattr(module, "__all__", [])
    assert public == sorted(public, key=lambda one: (one.upper() != one, one[0].islower(), one))
    assert all(hasattr(module, one) for one in public)


def test_all_is_what_the_package_exports() -> None:
    assert all(hasattr(ninja_tasks, name) for name in ninja_tasks.__all__)
    ours = {
        name
        for name, value in vars(ninja_tasks).items()
        if getattr(value, "__module__", "").startswith("ninja_tasks")
        and not name.startswith("_")
        and not isinstance(value, ModuleType)
    }
    assert ours | ninja_tasks._ON_FIRST_USE.keys() == set(ninja_tasks.__all__)


@pytest.mark.parametrize("code", ["import ninja_tasks", "from ninja_tasks import install"])
def test_importing_the_package_loads_neither_requests_nor_sentry(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "ninja_tasks.producer" in loaded
    assert not {"requests", "sentry_sdk", "marshmallow"} & loaded


def test_the_story_of_a_delivery_stays_short() -> None:
    assert len((PACKAGE / "tasks.py").read_text().splitlines()) <= _LONGEST_STORY

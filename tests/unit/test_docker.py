"""What the container files promise; no engine is needed to see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ninja_tasks.config import SETTINGS

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = DOCKER / "compose.yaml"


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    return found


def test_the_compose_file_is_valid_by_its_specification() -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            COMPOSE,
        ],
        check=True,
    )


def test_redis_keeps_what_it_has_and_evicts_nothing(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["redis"]["volumes"]


def test_a_stopping_worker_has_longer_than_a_request_takes(services: dict[str, Any]) -> None:
    timeouts = sum(one.default for one in SETTINGS if one.name.endswith("_timeout_seconds"))
    assert int(services["worker"]["stop_grace_period"].removesuffix("s")) > timeouts + 5


def test_the_worker_can_be_scaled_and_is_watched(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert "container_name" not in worker
    assert "ports" not in worker
    assert worker["init"] is True
    assert worker["healthcheck"]["test"]
    assert worker["restart"] == "unless-stopped"


def test_every_setting_can_be_given_to_the_worker(services: dict[str, Any]) -> None:
    given = set(services["worker"]["environment"])
    assert given == {
        "CELERY_BROKER_URL",
        "SENTRY_DSN",
        *(setting.environment_variable for setting in SETTINGS),
    }


def test_flower_is_optional_and_seen_from_this_machine_only(services: dict[str, Any]) -> None:
    assert services["flower"]["profiles"] == ["flower"]
    assert services["flower"]["ports"] == ["127.0.0.1:5555:5555"]


def test_the_image_runs_as_nobody_in_particular_and_gets_signals_itself() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    (command,) = [line for line in lines if line.startswith(("CMD", "ENTRYPOINT"))]
    assert command.startswith('CMD ["celery", "-A", "ninja_tasks", "worker"')

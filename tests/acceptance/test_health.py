"""The liveness file: fresh while the worker is well, old or gone when it is not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from stack import Worker, clean_environment, wait_until

from ninja_tasks.testing import EmbeddedServer, embedded_server

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
_EVERY_SECONDS = 2.0


@pytest.fixture
def broker() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


def test_the_file_is_touched_only_while_the_broker_answers_and_is_gone_at_the_end(
    broker: EmbeddedServer, tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    environment = clean_environment(CELERY_BROKER_URL=broker.url, NINJA_LIVENESS_FILE=str(file))
    with Worker(tmp_path, environment, pool="threads"):
        first = wait_until(lambda: file.exists() and file.stat().st_mtime, "the file")
        wait_until(lambda: file.stat().st_mtime > first, "the file to be touched again")
        broker.kill()
        killed = time.time()
        wait_until(lambda: time.time() > killed + 2 * _EVERY_SECONDS, "two rounds")
        assert file.stat().st_mtime < killed + 0.5
        broker.start()
        wait_until(lambda: file.stat().st_mtime > killed + 0.5, "the worker to be well again")
    assert not file.exists()


def test_the_probe_of_the_compose_file_tells_a_well_worker_from_a_hung_one(tmp_path: Path) -> None:
    services = YAML(typ="safe").load(COMPOSE)["services"]
    kind, probe = services["worker"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    file = tmp_path / "alive"

    def passes() -> bool:
        command = ["sh", "-c", probe.replace("$$", "$")]
        environment = clean_environment(NINJA_LIVENESS_FILE=str(file))
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        return done.returncode == 0

    assert not passes()
    file.touch()
    assert passes()
    old = time.time() - 60
    os.utime(file, (old, old))
    assert not passes()

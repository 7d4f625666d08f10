"""A whole system for each kind of worker pool: Valkey, fake API, fake Sentry, and a real worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from stack import Kent, Worker, clean_environment, wait_until

from ninja_tasks import GoalStatus, goal_status, install
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, embedded_server

MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class System:
    """The parts, and what the tests ask of them."""

    app: Celery
    api: FakeSalesNinja
    kent: Kent
    worker: Worker
    environment: dict[str, str]
    directory: Path

    def status_when(self, delivery_id: str, state: str) -> GoalStatus:
        """Wait until a goal is in this state."""

        def found() -> GoalStatus | None:
            status = goal_status(delivery_id, app=self.app)
            return status if status.state == state else None

        return wait_until(found, f"{delivery_id} to be {state}; log:\n{self.worker.log[-4000:]}")

    def let_sentry_hear(self) -> None:
        """End the windows in which Sentry is told of one letter of each class only."""
        with redis.Redis.from_url(self.environment["CELERY_BROKER_URL"]) as client:
            client.delete("ninja:reports")

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``ninja-tasks`` as a person would."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("ninja-tasks")), *arguments],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json_of(self, *arguments: str) -> Any:
        """Run a command with ``--json`` and return the one object that it writes."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def kent() -> Iterator[Kent]:
    server = Kent()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as running:
        yield running


@pytest.fixture(scope="module", params=["threads", "prefork"])
def system(
    request: pytest.FixtureRequest, kent: Kent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    directory = tmp_path_factory.mktemp(request.param)
    with embedded_server() as broker, FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url,
            NINJA_API_URL=api.url,
            NINJA_READ_TIMEOUT_SECONDS="1",
            NINJA_RATE_LIMIT="none",
            NINJA_BREAKER_THRESHOLD="1000",
            NINJA_MAX_ATTEMPTS=str(MAX_ATTEMPTS),
            SENTRY_DSN=kent.dsn,
        )
        app = install(Celery("shop", broker=broker.url, set_as_current=False))
        with Worker(directory, environment, pool=request.param) as worker:
            yield System(app, api, kent, worker, environment, directory)

"""Real parts for the tests: workers in processes of their own, and a Sentry."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import requests
from celery import Celery
from celery.signals import celeryd_init

T = TypeVar("T")

DEADLINE_SECONDS = 20.0
_STOP_SECONDS = 20.0
_LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def wait_until(
    probe: Callable[[], T], what: str = "", timeout_seconds: float = DEADLINE_SECONDS
) -> T:
    """Return the first true value of ``probe``, or fail when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s for {what or probe}"
        time.sleep(0.02)
    return value


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without any setting of the package, plus the given ones."""
    foreign = ("CELERY_", "NINJA_", "SENTRY_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | settings


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def in_a_child(action: Callable[[], object]) -> None:
    """Run something in a forked child, which must end well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def tell_of_worker(app: Celery) -> None:
    """Tell of a worker as ``celery worker`` does before it sets anything up."""
    worker = SimpleNamespace(app=app)
    celeryd_init.send(sender="worker@shop", instance=worker, conf=app.conf, options={})


class Worker:
    """A real Celery worker in a process of its own; its log is kept for the tests to read."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        pool: str,
        app: str = "ninja_tasks",
        concurrency: int = 4,
        name: str = "worker",
        log_level: str = "INFO",
        arguments: Sequence[str] = (),
    ) -> None:
        self._log_file = directory / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", f"--loglevel={log_level}"]
        command += [f"--hostname={name}@test"]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--pool={pool}", f"--concurrency={concurrency}", *_LEAN, *arguments],
                cwd=directory,
                env=dict(environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._has_started, "the worker to start")
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            assert self.stop() == 0, self.log
        elif self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def _has_started(self) -> bool:
        assert self._process.poll() is None, f"the worker ended:\n{self.log}"
        return " ready." in self.log

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End the worker and its children as ``kill -9`` does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """End the worker if it still runs, whatever its exit code is."""
        if self._process.poll() is None:
            self.kill()

    def cpu_seconds(self) -> float:
        """Return the processor time that the worker and its children have taken."""
        ticks = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_megabytes(self) -> float:
        """Return the memory of the worker and its children; a page that they share counts once."""
        kilobytes = 0
        for pid in self._pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kilobytes / 1024

    def _pids(self) -> list[int]:
        """Return the processes of the worker's session."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if _session_of(pid) == self._process.pid]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process only."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ask the worker to finish what it has, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the worker did not stop:\n{self.log}") from None


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


class Kent:
    """A fake Sentry that speaks the real protocol, in a process of its own."""

    def __init__(self) -> None:
        self._port = free_port()
        address = ("--host", "127.0.0.1", "--port", str(self._port))
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("kent-server"), "run", *address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "kent to start")

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self._port}/1"

    def all_events(self) -> list[dict[str, Any]]:
        """Return the newest hundred events, whole."""
        listed = self._get("/api/eventlist/")["events"]
        return [self._get(f"/api/event/{one['event_id']}")["payload"]["body"] for one in listed]

    def events(self, delivery_id: str) -> list[dict[str, Any]]:
        """Return the events about one goal, whole."""
        return [event for event in self.all_events() if delivery_id in json.dumps(event)]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)

    close = stop

    def _answers(self) -> bool:
        assert self._process.poll() is None, "kent ended"
        try:
            return "events" in self._get("/api/eventlist/")
        except requests.ConnectionError:
            return False

    def _get(self, path: str) -> dict[str, Any]:
        answer = requests.get(f"http://127.0.0.1:{self._port}{path}", timeout=5)
        document: dict[str, Any] = answer.json()
        return document

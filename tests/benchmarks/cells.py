"""What is measured: one drain, one loop of a producer, one first goal of a fresh process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from stack import clean_environment

from .api import Api
from .environments import Environment
from .field import BARE, Contender
from .processes import Tree

__all__ = ["Bench", "Drain", "Enqueue", "Traffic"]

_CONTENDERS = Path(__file__).with_name("contenders")
_DEADLINE_SECONDS = 300
_WARM_SHARE = 0.1


@dataclass(frozen=True)
class Drain:
    """What workers did with a queue that was full when they started.

    Attributes:
        cpu: user and system time of the workers' processes, in microseconds per goal, from the
            moment when 10 % of the goals were delivered to the moment when all were.
        rate: goals per second in the same time.
        broker_cpu: of the Redis server, in microseconds per goal; 0 where there is none.
        megabytes: the most memory of all processes of the workers.
        first: seconds from the start of the first worker to the first request at the API.
    """

    cpu: float
    rate: float
    broker_cpu: float
    megabytes: float
    first: float


@dataclass(frozen=True)
class Enqueue:
    """A loop of a producer.

    Attributes:
        rate: goals per second.
        cpu: its processor time, in microseconds per goal.
        grown: by how many megabytes its memory grew.
    """

    rate: float
    cpu: float
    grown: float


@dataclass(frozen=True)
class Traffic:
    """What workers and Redis said to each other, per goal."""

    commands: float
    bytes_in: float
    bytes_out: float


class Bench:
    """The servers and environments of one run.

    Args:
        brokers: URL by kind, ``redis`` and perhaps ``rabbitmq``.
        environments: by set of packages.
        directory: for logs.
    """

    def __init__(
        self,
        brokers: Mapping[str, str],
        environments: Mapping[tuple[str, ...], Environment],
        directory: Path,
    ) -> None:
        self._brokers = brokers
        self._environments = environments
        self._directory = directory
        self._redis = redis.Redis.from_url(brokers["redis"])

    def drain(
        self,
        contender: Contender,
        api: Api,
        goals: int,
        threads: int,
        *,
        queued: int | None = None,
    ) -> Drain:
        """Fill a queue, start the workers and measure until they have delivered the goals.

        Args:
            contender: whose workers.
            api: to which they post.
            goals: that are delivered while it is measured.
            threads: goals at once in each worker, where it has threads or a loop.
            queued: goals that are in the queue; the same number by default.
        """
        environment = self._environment(contender, api.url, threads)
        if contender is not BARE:
            self._fill(contender, environment, queued or goals)
        before = api.count()
        with ExitStack() as stack:
            started = time.perf_counter()
            trees = [
                stack.enter_context(self._worker(contender, environment, goals, threads, number))
                for number in range(contender.processes)
            ]
            megabytes = 0.0
            self._wait(trees, api, before + 1, 0.005)
            first = time.perf_counter() - started
            self._wait(trees, api, before + int(goals * _WARM_SHARE), 0.01)
            start = self._sample(trees, api)
            self._wait(trees, api, before + int(goals * 0.9), 0.02)
            megabytes = sum(tree.megabytes() for tree in trees)
            self._wait(trees, api, before + goals, 0.01, ends=contender is BARE)
            end = self._sample(trees, api)
        done = end.count - start.count
        return Drain(
            cpu=(end.cpu - start.cpu) / done * 1e6,
            rate=done / (end.at - start.at),
            broker_cpu=(end.broker_cpu - start.broker_cpu) / done * 1e6,
            megabytes=megabytes,
            first=first,
        )

    def enqueue(self, contender: Contender, way: str, goals: int) -> Enqueue:
        """Let a producer enqueue goals, ``each`` by itself or ``many`` at once."""
        self._empty()
        environment = self._environment(contender, "http://127.0.0.1:9", 1)
        found = self._produce(contender, environment, way, goals)
        return Enqueue(
            rate=found["goals"] / found["seconds"],
            cpu=found["cpu"] / found["goals"] * 1e6,
            grown=found["grown"],
        )

    def first_enqueue(self, contender: Contender) -> float:
        """Return the processor seconds of a process that imports all and enqueues one goal."""
        environment = self._environment(contender, "http://127.0.0.1:9", 1)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(contender, environment, "first_enqueue.py", contender.module)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def traffic(self, contender: Contender, api: Api, goals: int, threads: int) -> Traffic:
        """Count what Redis is asked and told while a queue is emptied."""
        received, sent = self._transferred()
        self._drain_all(contender, api, goals, threads)
        received, sent = (
            now - then for now, then in zip(self._transferred(), (received, sent), strict=True)
        )
        with self._commands() as commands:
            self._drain_all(contender, api, goals, threads)
        return Traffic(commands[0] / goals, received / goals, sent / goals)

    def _drain_all(self, contender: Contender, api: Api, goals: int, threads: int) -> None:
        environment = self._environment(contender, api.url, threads)
        before = api.count()
        with self._worker(contender, environment, goals, threads, 0) as tree:
            self._produce(contender, environment, "many", goals)
            self._wait([tree], api, before + goals, 0.05)

    @contextmanager
    def _commands(self) -> Iterator[list[int]]:
        """Count the commands that came over a connection, without those of scripts."""
        found = [0]
        watcher = redis.Redis.from_url(self._brokers["redis"])
        with watcher.monitor() as monitor:
            thread = threading.Thread(target=_count_commands, args=(monitor, found), daemon=True)
            thread.start()
            yield found
            self._redis.echo(_LAST_COMMAND)
            thread.join(10)

    def _transferred(self) -> tuple[int, int]:
        stats = self._redis.info("stats")
        return stats["total_net_input_bytes"], stats["total_net_output_bytes"]

    def _environment(self, contender: Contender, url: str, threads: int) -> dict[str, str]:
        binaries = self._environments[contender.packages].bin
        broker = self._brokers[contender.broker]
        return clean_environment(
            PATH=f"{binaries}:{os.environ['PATH']}",
            PYTHONPATH=str(_CONTENDERS),
            PYTHONDONTWRITEBYTECODE="",
            BENCH_BROKER=broker,
            BENCH_API=url,
            BENCH_CONCURRENCY=str(threads),
            NINJA_API_URL=url,
            # So high that nobody waits, and so the limit is kept all the same.
            NINJA_RATE_LIMIT="100000/s",
            NINJA_REDIS_URL=self._brokers["redis"],
        )

    def _fill(self, contender: Contender, environment: Mapping[str, str], goals: int) -> None:
        self._empty()
        self._produce(contender, environment, "many" if contender.bulk else "each", goals)

    def _empty(self) -> None:
        self._redis.execute_command("FLUSHALL", "SYNC")

    def _produce(
        self, contender: Contender, environment: Mapping[str, str], way: str, goals: int
    ) -> dict[str, float]:
        found: dict[str, float] = json.loads(
            self._run(contender, environment, "produce.py", contender.module, way, str(goals))
        )
        return found

    def _run(self, contender: Contender, environment: Mapping[str, str], *words: str) -> str:
        python = self._environments[contender.packages].bin / "python"
        done = subprocess.run(
            [str(python), *words],
            cwd=_CONTENDERS,
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{contender.name}, {' '.join(words)}:\n{done.stderr[-3000:]}")
        return done.stdout

    def _worker(
        self,
        contender: Contender,
        environment: Mapping[str, str],
        goals: int,
        threads: int,
        number: int,
    ) -> Tree:
        words = contender.worker.format(
            goals=goals,
            threads=threads,
            module=contender.module,
            broker=self._brokers[contender.broker],
        ).split()
        if "celery" in words:
            words.append(f"--hostname=worker{number}@bench")
        words[0] = str(self._environments[contender.packages].bin / words[0])
        if contender.bound:
            cores = sorted(os.sched_getaffinity(0), reverse=True)
            words = ["taskset", "--cpu-list", str(cores[number % len(cores)]), *words]
        log = self._directory / f"{contender.module}-{number}.log"
        return Tree(words, environment, _CONTENDERS, log)

    def _wait(
        self, trees: list[Tree], api: Api, count: int, pause: float, *, ends: bool = False
    ) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while api.count() < count:
            dead = [tree for tree in trees if tree.process.poll() is not None]
            if (dead and not ends) or time.monotonic() > deadline:
                tree = (dead or trees)[0]
                log = tree.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the goals were not delivered; the worker said:\n{log}")
            time.sleep(pause)

    def _sample(self, trees: list[Tree], api: Api) -> _Sample:
        server = self._redis.info("cpu")
        return _Sample(
            at=time.perf_counter(),
            count=api.count(),
            cpu=sum(tree.cpu_seconds() for tree in trees),
            broker_cpu=float(server["used_cpu_user"] + server["used_cpu_sys"]),
        )


_LAST_COMMAND = "end of the count"


@dataclass(frozen=True)
class _Sample:
    at: float
    count: int
    cpu: float
    broker_cpu: float


def _count_commands(monitor: redis.client.Monitor, found: list[int]) -> None:
    with suppress(redis.ConnectionError):
        for command in monitor.listen():
            if _LAST_COMMAND in command["command"]:
                return
            found[0] += command["client_type"] != "lua"

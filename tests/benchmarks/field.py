"""Who takes part: the environment, the worker's command and the guarantees of every contender."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BARE", "FIELD", "FIRST", "OURS", "Contender"]

#: What takes more than a worker's own doing to be heard; every Celery worker is started so.
_LEAN = "--without-gossip --without-mingle --without-heartbeat"
_OURS = f"celery -A ours worker {_LEAN}"


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: in the table.
        module: in ``contenders``, which enqueues and holds the task.
        packages: what is installed into its own environment; empty for the project's own.
        worker: its worker's command, with ``{threads}`` for the number of goals at once.
        guarantee: what becomes of a goal whose worker is killed.
        share: of the goals of a cell that it gets, for those that would take minutes.
        slow_share: the same where the API takes 50 ms.
        broker: ``redis`` or ``rabbitmq``.
        bulk: whether it has a way to enqueue many goals at once.
        processes: workers of it that run at the same time.
        bound: whether each of them may run on one core only.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    worker: str
    guarantee: str
    share: float = 1
    slow_share: float = 1
    broker: str = "redis"
    bulk: bool = False
    processes: int = 1
    bound: bool = False

    @property
    def queued(self) -> bool:
        """Whether its goals wait in Redis."""
        return bool(self.guarantee != _NONE and self.broker == "redis")


_NONE = "loses it, and all that follow"

BARE = Contender("bare requests loop", "bare", (), "python bare.py {goals}", _NONE, 1, 0.05)

_LOST = "loses it"
_AGAIN = "runs it again"
_EXACT = "runs it again; no double if never sent"

OURS = (
    Contender(
        "ninja_tasks, threads",
        "ours",
        (),
        _OURS + " --pool=threads --concurrency={threads}",
        _EXACT,
        bulk=True,
    ),
    Contender(
        "ninja_tasks, threads, bound to a core",
        "ours",
        (),
        _OURS + " --pool=threads --concurrency={threads}",
        _EXACT,
        bulk=True,
        bound=True,
    ),
    Contender(
        "ninja_tasks, prefork 2",
        "ours",
        (),
        _OURS + " --pool=prefork --concurrency=2",
        _EXACT,
        slow_share=0.1,
        bulk=True,
    ),
    Contender(
        "ninja_tasks, threads, RabbitMQ",
        "ours",
        (),
        _OURS + " --pool=threads --concurrency={threads}",
        _EXACT,
        broker="rabbitmq",
        bulk=True,
    ),
    Contender(
        "ninja_tasks, prefork 2, RabbitMQ",
        "ours",
        (),
        _OURS + " --pool=prefork --concurrency=2",
        _EXACT,
        slow_share=0.1,
        broker="rabbitmq",
        bulk=True,
    ),
)

_CELERY = ("celery[redis]", "requests")
_TASKIQ = ("taskiq", "taskiq-redis", "aiohttp", "uvloop")
_TASKIQ_WORKER = "taskiq worker {module}:broker --workers 1 --max-async-tasks {threads}"

FIELD = (
    BARE,
    *OURS,
    Contender(
        "Celery, ten lines, prefork 2",
        "celery_plain",
        _CELERY,
        "celery -A celery_plain worker --pool=prefork --concurrency=2",
        _LOST,
        slow_share=0.1,
    ),
    Contender(
        "Celery, tuned, threads",
        "celery_tuned",
        _CELERY,
        f"celery -A celery_tuned worker {_LEAN} --pool=threads --concurrency={{threads}}",
        _AGAIN + " after an hour",
    ),
    Contender(
        "Dramatiq, threads",
        "dramatiq_redis",
        ("dramatiq[redis]", "requests"),
        "dramatiq dramatiq_redis --processes 1 --threads {threads}",
        _AGAIN,
    ),
    Contender(
        "Huey, threads",
        "huey_redis",
        ("huey", "redis", "requests"),
        "huey_consumer huey_redis.huey --workers {threads} --worker-type thread",
        _LOST,
    ),
    Contender(
        "RQ, fork for each job",
        "rq_redis",
        ("rq", "requests"),
        "rq worker bench --url {broker}",
        _AGAIN,
        share=0.1,
        slow_share=0.1,
        bulk=True,
    ),
    Contender(
        "arq, aiohttp",
        "arq_redis",
        ("arq", "aiohttp"),
        "arq arq_redis.WorkerSettings",
        _AGAIN,
    ),
    Contender("taskiq list, aiohttp", "taskiq_redis_list", _TASKIQ, _TASKIQ_WORKER, _LOST),
    Contender("taskiq stream, aiohttp", "taskiq_redis_stream", _TASKIQ, _TASKIQ_WORKER, _AGAIN),
)

#: Whose first goal of a fresh process is measured.
FIRST = (
    OURS[0],
    Contender("Celery, a bare application", "celery_bare", _CELERY, "", _LOST),
)

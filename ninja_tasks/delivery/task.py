"""The base class of ``reach_goal``: what it holds in each process, how it waits and retries."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from secrets import token_hex
from typing import Any, NoReturn

import redis
from celery import Task
from celery.exceptions import Reject
from celery.result import EagerResult
from celery.states import SUCCESS
from celery.utils import uuid

from ..config import Settings, settings_of
from ..errors import DeadLettered, InvalidGoal, NinjaTasksError, TransientError
from ..goals import WIRE_NAMES, goal_to_wire
from ..message import (
    HEADER_PREFIX,
    NOT_BEFORE_HEADER,
    QUEUE_NAME,
    REDACTED_REPRESENTATION,
    UNDATED_HEADER,
    Message,
)
from ..outbox import keep, stays_here
from ..validation import goal_from_message
from .client import SalesNinja
from .endings import Elsewhere, Parked
from .gate import Admission, Answer, BreakerNews, Gate, longest_claim_seconds
from .outcomes import Attempt, Outcome, Verdict, backoff_seconds, decide
from .parking import ParkedGoal, Parking
from .record import DeliveryRecord
from .series import Series
from .slots import use_slot
from .state import Keys, shared_client, until_stored
from .stopping import is_stopping

__all__ = ["RELIED_ON", "DeliveryTask"]

logger = logging.getLogger(__name__)

_ONLY_WORKERS = "only workers call reach_goal: put the goal on the queue with enqueue_goal"

_ELSEWHERE = (Answer.DELIVERED, Answer.PARKED)
_WHY_HELD = {
    Answer.BUSY: "is being sent by another worker",
    Answer.PAUSED: "delivery is paused",
    Answer.HOLD: "the API asked all workers to wait",
    Answer.BREAKER: "the API does not answer",
}


class DeliveryTask(Task):  # type: ignore[misc]
    """A task that delivers goals.

    Celery makes one instance for each application and process, so what is cached here is shared by
    the threads of a worker and is not shared by its child processes.
    """

    #: The request decides when a message is acknowledged; all of these let it.
    acks_late = True
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = False
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    #: How often to try is decided by the goal's record: some attempts are not charged.
    max_retries = None
    #: Workers share one limit; Celery's would hold messages in memory.
    rate_limit = 0
    #: A dead letter was told of already; Celery logs these without a traceback.
    throws = (DeadLettered,)
    #: Wrong arguments reach the task, which makes a dead letter of them.
    typing = False
    ignore_result = True
    queue = QUEUE_NAME
    serializer = "json"
    #: Named, not imported: only a worker needs them.
    Strategy = "ninja_tasks.worker.strategy:receive_goal"
    Request = "ninja_tasks.worker.request:GoalRequest"

    @classmethod
    def annotate(cls) -> None:
        """Take the application's annotations, except for what delivery relies on."""
        before = dict(vars(cls))
        super().annotate()
        for name in RELIED_ON & vars(cls).keys():
            if name not in before:
                delattr(cls, name)
            elif vars(cls)[name] is not before[name]:
                setattr(cls, name, before[name])

    @property
    def time_limit(self) -> float:
        """Seconds after which a prefork pool ends a process that does not come back.

        The application's ``task_time_limit`` is made for its own tasks, and does not apply.
        """
        return longest_claim_seconds(self.settings)

    #: Celery refuses a longer one; a goal that meets it goes back like one that meets the other.
    soft_time_limit = time_limit

    @cached_property
    def _threads(self) -> threading.local:
        return threading.local()

    @cached_property
    def settings(self) -> Settings:
        """The application's settings."""
        return settings_of(self.app)

    @cached_property
    def state(self) -> redis.Redis:
        """The Redis that holds state."""
        return shared_client(self.settings)

    @cached_property
    def gate(self) -> Gate:
        """The books of deliveries."""
        return Gate(self.settings, self.state)

    @cached_property
    def api(self) -> SalesNinja:
        """The HTTP client."""
        return SalesNinja(self.settings)

    @cached_property
    def parking(self) -> Parking:
        """Where goals wait."""
        return Parking(self.state, Keys(self.settings.key_prefix))

    @property
    def headers(self) -> dict[str, Any]:
        """This package's headers of the current message, also where a tracer nested them.

        Celery's request has the headers of a message as attributes, and in ``headers`` those that
        it does not know itself, or what an instrumentation put there in their place.
        """
        request = self.request
        found: dict[str, Any] | None = request.get("own_headers")
        if found is None:
            nested = request.headers if isinstance(request.headers, Mapping) else {}
            found = request.own_headers = {
                name: value
                for name, value in {**nested, **vars(request)}.items()
                if name.startswith(HEADER_PREFIX) and value is not None
            }
        return found

    def body_of(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], record: DeliveryRecord
    ) -> dict[str, Any]:
        """Check the message's arguments and return the JSON body of the API, with its time.

        Raises:
            InvalidGoal: with every fault of the message at once.
        """
        goal = goal_from_message(args, kwargs, record.enqueued_at)
        if self.headers.get(UNDATED_HEADER) and args[0].get(WIRE_NAMES["created_on"]) is None:
            self.gate.count_undated()
        return goal_to_wire(goal)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any
    ) -> Any:
        """Publish as Celery does, without the arguments' text."""
        return super().apply_async(args, kwargs, *positional, **options, **REDACTED_REPRESENTATION)

    def apply(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> EagerResult:
        """Keep the goal in the process: Celery calls this where ``task_always_eager`` is on.

        Raises:
            NinjaTasksError: elsewhere, because only a worker delivers.
        """
        if not stays_here(self.app):
            raise NinjaTasksError(_ONLY_WORKERS)
        delivery_id = task_id or uuid()
        keep(Message(delivery_id, args[0] if args else None, options.get("headers") or {}))
        return EagerResult(delivery_id, None, SUCCESS, name=self.name)

    def begin(self) -> None:
        """Begin with what a worker has taken, and show nothing of it.

        Raises:
            NinjaTasksError: if the task was called like a function: there is no message then.
        """
        if self.request.called_directly:
            raise NinjaTasksError(_ONLY_WORKERS)
        self.request.update(REDACTED_REPRESENTATION)

    def retry(self, *, exc: TransientError, **options: Any) -> NoReturn:
        """Park the goal until its next attempt; Celery calls it for each of ``autoretry_for``.

        Celery would publish a message that waits in a worker's memory, give up after
        ``max_retries``, and drop the goal if the broker refused the message.

        Args:
            exc: why the last attempt failed; the wait that the API asked for is the least.
            options: what Celery would do, which is not used.

        Raises:
            Parked: when the goal is stored.
            celery.exceptions.Reject: if Redis does not take it; the message goes back.
        """
        retries = self.request.retries
        seconds = max(
            backoff_seconds(retries, self.retry_backoff, self.retry_backoff_max),
            exc.retry_after_seconds or 0,
        )
        self._park(seconds, retries=retries + 1)
        raise Parked(exc=exc, when=round(seconds, 1))

    def _carry(self, body: Mapping[str, Any], record: DeliveryRecord) -> None:
        """Set what the goal's next message has, if it needs one."""
        self.request.carried = body, record

    def _park(self, seconds: float, *, retries: int) -> None:
        """Let the goal wait in Redis; returns when it is stored."""
        body, record = self.request.carried
        priority = (self.request.delivery_info or {}).get("priority") or None
        goal = ParkedGoal(body, record.headers(), retries, priority)
        until_stored(
            lambda: self.parking.park(
                record.delivery_id, goal, enqueued_at=record.enqueued_at, seconds=seconds
            ),
            record.delivery_id,
        )

    def _hold(self, seconds: float, why: str) -> NoReturn:
        """Let the goal wait without an attempt, and end this execution of the task.

        Raises:
            Parked: when the goal is stored; Celery acknowledges the message after it.
        """
        self._park(seconds, retries=self.request.retries)
        raise Parked(why, when=round(seconds))

    def _leave_if_stopping(self) -> None:
        """Give the message back if the worker is ending: an attempt can take half a minute.

        Raises:
            celery.exceptions.Reject: if so.
        """
        if is_stopping():
            raise Reject("the worker is ending", requeue=True)

    def _hold_until_eta(self) -> None:
        """Park a goal that came with an ETA in the future.

        Raises:
            InvalidGoal: if the ETA is no time.
        """
        text = self.headers.get(NOT_BEFORE_HEADER)
        if text is None:
            return
        try:
            eta = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise InvalidGoal({"eta": ["must be a time in ISO 8601, or absent"]}) from None
        seconds = (eta.replace(tzinfo=eta.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        if seconds > 0:
            self._hold(seconds, "waits for its ETA")

    def admit(self, body: Mapping[str, Any], record: DeliveryRecord) -> Admission:
        """Ask whether the goal may be sent now, or has been given up.

        Raises:
            Parked: after the goal was parked.
            Elsewhere: if another copy of the goal is delivered or parked.
            celery.exceptions.Reject: if the worker is ending; the message goes back.
            InvalidGoal: if the message has an ETA that is no time.
        """
        self._carry(body, record)
        self._leave_if_stopping()
        self._hold_until_eta()
        token = self.request.token = token_hex(4)
        self.api.prepare()
        on_unknown = record.on_unknown or self.settings.on_unknown
        expired = record.is_expired(datetime.now(UTC), self.settings.max_age_seconds)
        ask = partial(
            self.gate.admit,
            record,
            token,
            expired=expired,
            stop_on_doubt=on_unknown == "dead_letter",
        )
        # It may have been granted all the same, to nobody's use.
        forget = partial(self.gate.unclaim, record.delivery_id, token)
        admission = until_stored(
            ask, record.delivery_id, on_giving_up=partial(self.gate.unstored.keep, forget)
        )
        # What the ledger knows beyond the message goes along while the goal waits.
        self._carry(body, admission.record)
        if admission.answer in _ELSEWHERE:
            logger.info("goal %s is %s already", record.delivery_id, admission.answer)
            raise Elsewhere
        if admission.answer in _WHY_HELD:
            self._hold(admission.wait_seconds, _WHY_HELD[admission.answer])
        if admission.answer is Answer.GO:
            use_slot()
        return admission

    def settle(
        self,
        body: Mapping[str, Any],
        record: DeliveryRecord,
        attempt: Attempt,
        report: Callable[[BreakerNews | None], None],
    ) -> DeliveryRecord:
        """Write down what came of an attempt, and return the record with what the ledger knows.

        It returns when it is stored.

        In a :meth:`series` a delivered goal's is stored before its message may be acknowledged,
        but maybe after this has returned.

        Args:
            body: the JSON body of the API, for the next message if there is one.
            record: with this attempt in it.
            attempt: the attempt that is over.
            report: is told the news of the breaker, when it is stored.

        Raises:
            Elsewhere: if another worker has delivered the goal, whatever came of this attempt.
        """
        self._carry(body, record)
        series = self._series
        if series is not None and attempt.outcome is Outcome.DELIVERED:
            series.settle(record, attempt, self.request.token, report)
        else:
            dies = self.verdict(record, attempt) not in (Verdict.DELIVERED, Verdict.RETRY)
            write = partial(self.gate.settle, record, attempt, self.request.token)
            settled = until_stored(
                partial(write, dies=dies),
                record.delivery_id,
                on_giving_up=partial(self.gate.unstored.keep, lambda: report(write().news)),
            )
            report(settled.news)
            record = settled.record
            self._carry(body, record)
            if settled.is_delivered and attempt.outcome is not Outcome.DELIVERED:
                logger.info("goal %s was delivered by another worker", record.delivery_id)
                raise Elsewhere
        return record

    @contextmanager
    def series(self, on_confirmed: Callable[[], None]) -> Iterator[Series]:
        """Let this thread deliver goal after goal.

        Args:
            on_confirmed: is called when Redis has confirmed a settlement.
        """
        series = self._threads.series = Series(self.gate, on_confirmed)
        try:
            yield series
        finally:
            self._threads.series = None
            series.hand_over()

    @property
    def _series(self) -> Series | None:
        return getattr(self._threads, "series", None)

    def verdict(self, record: DeliveryRecord, attempt: Attempt) -> Verdict:
        """Return what happens to the goal after its last attempt."""
        return decide(
            attempt,
            charged=record.charged,
            max_attempts=self.settings.max_attempts,
            on_unknown=record.on_unknown or self.settings.on_unknown,
        )


#: What an application's annotations cannot change: all that the class defines, and how it is run.
RELIED_ON = frozenset(
    {
        *(name for name in vars(DeliveryTask) if not name.startswith("_")),
        *("run", "__call__", "autoretry_for", "retry_backoff", "retry_backoff_max"),
    }
)

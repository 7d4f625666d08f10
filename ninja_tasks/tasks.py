"""``reach_goal``: the story of one delivery."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from .dead_letters.burial import Cause, bury, give_up
from .dead_letters.report import report_breaker
from .delivery.endings import DELIVERED, ENDINGS
from .delivery.gate import Answer
from .delivery.outcomes import Verdict, transient_error
from .delivery.record import DeliveryRecord
from .delivery.task import DeliveryTask
from .errors import InvalidGoal, TransientError
from .message import TASK_NAME

__all__ = ["reach_goal"]


@shared_task(  # type: ignore[untyped-decorator]
    bind=True,
    name=TASK_NAME,
    base=DeliveryTask,
    autoretry_for=(TransientError,),
    retry_backoff=2,
    retry_backoff_max=600,
    retry_jitter=True,
)
def reach_goal(self: DeliveryTask, *args: Any, **kwargs: Any) -> str:
    """Deliver one goal; the one positional argument is the JSON body of the API."""
    self.begin()
    record = DeliveryRecord.received(self.request.id, self.headers, datetime.now(UTC))
    payload: Any = args[0] if len(args) == 1 and not kwargs else {"args": args, "kwargs": kwargs}
    try:
        record = record.with_headers(self.headers)
        payload = self.body_of(args, kwargs, record)
        admission = self.admit(payload, record)
        record = admission.record
        if admission.answer is not Answer.GO:
            give_up(self, admission, payload)
        attempt = self.api.post(payload, record.delivery_id)
        record = record.after(attempt)
        record = self.settle(payload, record, attempt, report_breaker)
        verdict = self.verdict(record, attempt)
        if verdict is Verdict.RETRY:
            raise transient_error(attempt)
        if verdict is not Verdict.DELIVERED:
            bury(self, Cause.of_attempt(verdict, attempt), record, payload)
        return DELIVERED
    except ENDINGS:
        raise
    except InvalidGoal as fault:
        bury(self, Cause("invalid", str(fault), "InvalidGoal"), record, payload)
    except Exception as error:  # noqa: BLE001 (whatever it is, the goal must not be lost)
        bury(self, Cause.of_unforeseen(error), record, payload)

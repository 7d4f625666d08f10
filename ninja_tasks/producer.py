"""Producing: check goals, stamp their time and put them on the queue.

This is all that a shop's web process needs. It talks to the broker alone and imports neither
``requests`` nor ``sentry_sdk``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from celery import Celery, current_app

from .config import ON_UNKNOWN
from .delivery_ids import DeliveryIds
from .errors import ConfigurationError, InvalidGoal
from .goals import WIRE_NAMES, goal_to_wire
from .message import (
    ENQUEUED_AT_HEADER,
    ON_UNKNOWN_HEADER,
    Message,
    batches,
    publish,
    publish_batch,
)
from .outbox import keep, stays_here
from .validation import goal_from_wire

__all__ = [
    "KEY_NAMESPACE",
    "EnqueueResult",
    "delivery_id_for",
    "enqueue_goal",
    "enqueue_goals",
    "prepare",
]

#: Namespace of the UUID (version 5, RFC 9562) that a goal with a key gets as its delivery id.
KEY_NAMESPACE = uuid.UUID("6f6c1f5c-6c5b-5e0e-9c0a-6e696e6a6121")

_AMOUNT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LONGEST_AMOUNT = 100
_MONEY_PARAMETERS = {"revenue": "Revenue", "net_profit": "NetProfit"}
_ARGUMENTS = {*WIRE_NAMES, *_MONEY_PARAMETERS, "key", "on_unknown"}
_ALIASES = {wire_name: name for name, wire_name in WIRE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class EnqueueResult:
    """What became of the goals of one ``enqueue_goals``.

    Attributes:
        delivery_ids: ids of the goals that the broker took, in their order.
        invalid: ``(index, messages)`` of each goal that was refused.
        sent: ``False`` if the goals were only checked and nothing left the process, because
            ``task_always_eager`` is on or an outbox is open.
    """

    delivery_ids: Sequence[str]
    invalid: list[tuple[int, Mapping[Any, Any]]]
    sent: bool = True


def enqueue_goal(
    *,
    goal_id: str | uuid.UUID,
    customer_id: str | uuid.UUID,
    ip: str | None = None,
    session_id: str | uuid.UUID | None = None,
    created_on: datetime | str | None = None,
    user_params: Mapping[str, str] | None = None,
    page_params: Mapping[str, str] | None = None,
    revenue: int | Decimal | str | None = None,
    net_profit: int | Decimal | str | None = None,
    key: str | None = None,
    on_unknown: Literal["retry", "dead_letter"] | None = None,
    app: Celery | None = None,
) -> str:
    """Put one goal on the queue and return its delivery id.

    Args:
        goal_id: GUID of the goal in Sales Ninja (from the address of the goal editor).
        customer_id: GUID of the client in Sales Ninja (``getCustomerIdAsync`` on the page).
        ip: the client's IPv4 or IPv6 address; it enriches the data.
        session_id: GUID of the client's session.
        created_on: when the conversion happened, an aware datetime or a string
            ``"YYYY-MM-DD HH:MM:SS[.ffffff]"`` in UTC, at most 5 minutes ahead of the clock.
            Default: now. No retry changes it.
        user_params: parameters that stay with the client, string to string, values of at most
            512 characters.
        page_params: parameters of this event, likewise.
        revenue: full price as int, Decimal or numeric string; becomes ``page_params["Revenue"]``.
        net_profit: revenue minus cost, likewise; becomes ``page_params["NetProfit"]``.
        key: your own id of the event, such as an order number. The same goal id and key give the
            same delivery id, wherever they are enqueued.
        on_unknown: what to do when a request may have been counted, ``"retry"`` or
            ``"dead_letter"``. Default: the worker's setting ``ninja_on_unknown``.
        app: the Celery application whose broker is used. Default: the current one.

    Returns:
        The delivery id, which is the Celery task id. Where ``task_always_eager`` is on, the goal
        was checked and nothing left the process (see ``ninja_tasks.testing.outbox``).

    Raises:
        InvalidGoal: a ``ValueError`` whose ``messages`` name every fault; nothing was sent.
        PublishError: a kombu ``OperationalError``: the broker did not confirm within
            ``publish_timeout_seconds``. The goal may be on the queue all the same; enqueue it again
            with the same key, and it is delivered once.

    Warning:
        Inside a database transaction, enqueue after the commit. A goal cannot be called back.
    """
    arguments = {
        "goal_id": goal_id,
        "customer_id": customer_id,
        "ip": ip,
        "session_id": session_id,
        "created_on": created_on,
        "user_params": user_params,
        "page_params": page_params,
        "revenue": revenue,
        "net_profit": net_profit,
        "key": key,
        "on_unknown": on_unknown,
    }
    message = prepare(arguments)
    application = app or current_app._get_current_object()
    if stays_here(application):
        keep(message, key)
    else:
        _check_broker(application)
        publish(application, message)
    return message.delivery_id


def enqueue_goals(
    goals: Iterable[Mapping[str, Any]],
    *,
    app: Celery | None = None,
    batch_size: int = 500,
    on_invalid: Literal["raise", "collect"] = "raise",
) -> EnqueueResult:
    """Put many goals on the queue with pipelined publishing.

    Args:
        goals: an iterable of dicts of the arguments of :func:`enqueue_goal`, or with the API's own
            field names (``GoalId`` for ``goal_id`` and so on). It is read batch by batch.
        app: the Celery application whose broker is used. Default: the current one.
        batch_size: goals in one batch, which is checked as a whole and sent as one pipeline.
        on_invalid: ``"raise"`` stops at the first invalid goal and sends nothing of its batch;
            ``"collect"`` sends the others and returns the faults.

    Returns:
        The delivery ids that were sent, and the faults.

    Raises:
        InvalidGoal: with ``index`` and the ``delivery_ids`` that were sent before its batch.
        PublishError: with the ``delivery_ids`` that the broker took and the ``uncertain_ids`` of
            the batch that it did not confirm. It is raised when the broker has been silent for
            ``publish_timeout_seconds``, and at the latest when a batch has taken this time for each
            hundred of its goals.
        ValueError: for an unknown ``on_invalid`` or a ``batch_size`` below 1.
    """
    if on_invalid not in ("raise", "collect"):
        raise ValueError('on_invalid must be "raise" or "collect"')
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    application = app or current_app._get_current_object()
    stays = stays_here(application)
    if not stays:
        _check_broker(application)
    sent = DeliveryIds()
    result = EnqueueResult(sent, [], sent=not stays)
    for batch in batches(enumerate(goals), batch_size):
        prepared = _prepare_batch(batch, result, collect=on_invalid == "collect")
        if stays:
            for message, key in prepared:
                keep(message, key)
        else:
            publish_batch(application, [message for message, _ in prepared], sent)
        sent.extend(message.delivery_id for message, _ in prepared)
    return result


def delivery_id_for(goal_id: str | uuid.UUID, key: str) -> str:
    """Return the delivery id of a goal that was enqueued with this key.

    It is the UUID version 5 of ``"<goal id in lower case>:<key>"`` in :data:`KEY_NAMESPACE`, so any
    program can compute it.
    """
    return str(uuid.uuid5(KEY_NAMESPACE, f"{str(goal_id).lower()}:{key}"))


def prepare(arguments: Mapping[str, Any]) -> Message:
    """Check the arguments of one goal and return its message; nothing is sent.

    Raises:
        InvalidGoal: with every fault at once.
    """
    if not isinstance(arguments, Mapping):
        raise InvalidGoal({"_schema": ["must be a dict of the arguments of enqueue_goal"]})
    given, faults = _by_argument_name(arguments)
    faults |= _option_faults(given)
    given["page_params"], money_faults = _with_money(given)
    faults |= money_faults
    wire = {
        wire_name: value
        for name, wire_name in WIRE_NAMES.items()
        if (value := given.get(name)) is not None
    }
    try:
        goal = goal_from_wire(wire)
    except InvalidGoal as error:
        raise InvalidGoal({**error.messages, **faults}) from None
    if faults:
        raise InvalidGoal(faults)
    now = datetime.now(UTC)
    key = given.get("key")
    headers = {ENQUEUED_AT_HEADER: now.isoformat()}
    if on_unknown := given.get("on_unknown"):
        headers[ON_UNKNOWN_HEADER] = on_unknown
    return Message(
        delivery_id=str(uuid.uuid4()) if key is None else delivery_id_for(goal.goal_id, key),
        body=goal_to_wire(replace(goal, created_on=goal.created_on or now)),
        headers=headers,
    )


def _check_broker(application: Celery) -> None:
    if application.main == "default" and not application.conf.broker_url:
        raise ConfigurationError(
            "no Celery application is configured in this process: create yours first, pass "
            "app=..., or set CELERY_BROKER_URL, for example redis://localhost:6379/0"
        )


def _by_argument_name(arguments: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[Any, list[str]]]:
    given: dict[str, Any] = {}
    faults: dict[Any, list[str]] = {}
    for name, value in arguments.items():
        argument = _ALIASES.get(name, name)
        if argument not in _ARGUMENTS:
            faults[name] = [f"is not an argument of enqueue_goal: use {_known_arguments()}"]
        elif argument in given:
            faults[name] = [f"is given twice, as {argument} and as {WIRE_NAMES[argument]}"]
        else:
            given[argument] = value
    return given, faults


def _known_arguments() -> str:
    return ", ".join(sorted(_ARGUMENTS))


def _option_faults(given: Mapping[str, Any]) -> dict[Any, list[str]]:
    faults = {}
    key = given.get("key")
    if key is not None and not (isinstance(key, str) and key):
        faults["key"] = ["must be a string that is not empty, such as an order number"]
    elif key is not None and not key.isprintable():
        faults["key"] = ["must be printable text: remove control characters and surrogates"]
    if given.get("on_unknown") not in (None, *ON_UNKNOWN):
        faults["on_unknown"] = ['must be "retry" or "dead_letter", or left out']
    return faults


def _with_money(given: Mapping[str, Any]) -> tuple[Any, dict[Any, list[str]]]:
    """Return the page parameters with the amounts in them, and the faults of the amounts."""
    amounts = {name: given[name] for name in _MONEY_PARAMETERS if given.get(name) is not None}
    page_params = given.get("page_params")
    if not amounts or not isinstance(page_params, Mapping | None):
        return page_params, {}
    merged = dict(page_params or {})
    faults: dict[Any, list[str]] = {}
    for name, amount in amounts.items():
        parameter = _MONEY_PARAMETERS[name]
        if parameter in merged:
            faults[name] = [f'is also in page_params as "{parameter}": give it once']
        elif (text := _amount_text(amount)) is None:
            faults[name] = [
                "must be an int, a Decimal or a plain numeric string such as "
                '"12350" or "12350.50" (no float, whose digits are not exact)'
            ]
        else:
            merged[parameter] = text
    return merged, faults


def _amount_text(amount: Any) -> str | None:
    """Write an amount of money plainly, or return ``None`` if it is not one."""
    if isinstance(amount, bool):
        return None
    if isinstance(amount, str):
        return amount if len(amount) <= _LONGEST_AMOUNT and _AMOUNT.fullmatch(amount) else None
    if isinstance(amount, int):
        amount = Decimal(amount)
    if isinstance(amount, Decimal) and amount.is_finite():
        return format(amount, "f") if abs(amount.adjusted()) < _LONGEST_AMOUNT else None
    return None


def _prepare_batch(
    batch: list[tuple[int, Mapping[str, Any]]], result: EnqueueResult, *, collect: bool
) -> list[tuple[Message, str | None]]:
    """Return the message and the key of each valid goal."""
    prepared = []
    for index, arguments in batch:
        try:
            prepared.append((prepare(arguments), arguments.get("key")))
        except InvalidGoal as error:
            if not collect:
                raise InvalidGoal(error.messages, index, result.delivery_ids) from None
            result.invalid.append((index, error.messages))
    return prepared

"""The goal: a frozen object, its wire format, and the short way from one to the other.

The rules are those of the vendor's page "Метод достижения цели" (``POST /outer/v1.0/goal/reach``).
Where that page is silent they are strict about syntax and silent about meaning.
:mod:`ninja_tasks.schemas` has them in full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

__all__ = [
    "CREATED_ON",
    "GUID",
    "MAX_AHEAD",
    "MAX_PARAMETER_LENGTH",
    "WIRE_NAMES",
    "Goal",
    "dated",
    "format_created_on",
    "goal_to_wire",
    "is_guid",
    "is_unicode",
    "plain_goal",
]

#: The vendor silently cuts longer values of client parameters; here they are an error.
MAX_PARAMETER_LENGTH = 512

#: A conversion that is further ahead was not dated in UTC, or by a clock that is wrong.
MAX_AHEAD = timedelta(minutes=5)

#: The API's names of a goal's fields.
WIRE_NAMES = {
    "goal_id": "GoalId",
    "customer_id": "CustomerId",
    "session_id": "SessionId",
    "ip": "Ip",
    "created_on": "CreatedOnUtc",
    "user_params": "CustomUserScopeParams",
    "page_params": "CustomPageScopeParams",
}

GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
CREATED_ON = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?")

_FIELDS = frozenset(WIRE_NAMES.values())
#: Exactly what ``ipaddress`` takes for an IPv4 address.
_IPV4 = re.compile(r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(?!$)|$)){4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Goal:
    """A conversion that passed every check: this client reached this goal at this time.

    ``repr`` shows the goal id alone, because everything else can be personal data.

    Attributes:
        goal_id: GUID of the goal in Sales Ninja, in lower case.
        customer_id: GUID of the client in Sales Ninja, in lower case.
        session_id: GUID of the client's session, in lower case, or ``None``.
        ip: the client's IPv4 or IPv6 address, or ``None``.
        created_on: when the conversion happened, an aware datetime in UTC; ``None`` only in a
            message that came without a time and was not stamped yet.
        user_params: parameters that stay with the client across sessions.
        page_params: parameters of this event.
    """

    goal_id: str
    customer_id: str = field(repr=False)
    session_id: str | None = field(default=None, repr=False)
    ip: str | None = field(default=None, repr=False)
    created_on: datetime | None = field(default=None, repr=False)
    user_params: Mapping[str, str] | None = field(default=None, repr=False)
    page_params: Mapping[str, str] | None = field(default=None, repr=False)


def plain_goal(body: Any, now: datetime | None = None) -> Goal | None:
    """Return the goal of a body as most are, or ``None`` for the schema to look closely.

    It takes a fifth of the time, and what it returns is what the schema would.

    Args:
        body: the JSON body of the API.
        now: the time that a conversion may not be ahead of. Default: this machine's.
    """
    if type(body) is not dict or not body.keys() <= _FIELDS:
        return None
    get = body.get
    goal_id, customer_id, session_id = get("GoalId"), get("CustomerId"), get("SessionId")
    if not (is_guid(goal_id) and is_guid(customer_id)):
        return None
    if session_id is not None:
        if not is_guid(session_id):
            return None
        session_id = session_id.lower()
    ip, text = get("Ip"), get("CreatedOnUtc")
    if ip is not None and not (type(ip) is str and _IPV4.fullmatch(ip)):
        return None
    created_on = None
    if text is not None:
        created_on = _plain_time(text, now)
        if created_on is None:
            return None
    user_params, page_params = get("CustomUserScopeParams"), get("CustomPageScopeParams")
    if not (_are_plain(user_params) and _are_plain(page_params)):
        return None
    return Goal(
        goal_id.lower(),
        customer_id.lower(),
        session_id,
        ip,
        created_on,
        user_params and dict(user_params),
        page_params and dict(page_params),
    )


def is_guid(value: Any) -> TypeGuard[str]:
    """Return whether this is a GUID in the form that the API documents."""
    return type(value) is str and GUID.fullmatch(value) is not None


def _plain_time(text: Any, now: datetime | None) -> datetime | None:
    """Return the time if it is one as it should be."""
    if not (type(text) is str and CREATED_ON.fullmatch(text)):
        return None
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment if moment - (now or datetime.now(UTC)) <= MAX_AHEAD else None


def _are_plain(parameters: Any) -> bool:
    """Return whether these are parameters as they should be, or none."""
    if parameters is None:
        return True
    if type(parameters) is not dict:
        return False
    for name, value in parameters.items():
        if not (type(name) is str and name and is_unicode(name)):
            return False
        if not (type(value) is str and len(value) <= MAX_PARAMETER_LENGTH and is_unicode(value)):
            return False
    return True


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which cannot be sent."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def goal_to_wire(goal: Goal) -> dict[str, Any]:
    """Return the JSON body of the API for a goal, without the fields that are absent."""
    created_on = goal.created_on and format_created_on(goal.created_on)
    fields = (
        ("GoalId", goal.goal_id),
        ("CustomerId", goal.customer_id),
        ("SessionId", goal.session_id),
        ("Ip", goal.ip),
        ("CreatedOnUtc", created_on),
        ("CustomUserScopeParams", goal.user_params),
        ("CustomPageScopeParams", goal.page_params),
    )
    return {name: value for name, value in fields if value is not None}


def dated(body: Any, moment: datetime) -> Any:
    """Return a body with a time: its own, or this one if it has none."""
    name = WIRE_NAMES["created_on"]
    if not isinstance(body, Mapping) or body.get(name) is not None:
        return body
    return {**body, name: format_created_on(moment)}


def format_created_on(moment: datetime) -> str:
    """Write an aware datetime as the API wants it: UTC, always with six digits of a second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

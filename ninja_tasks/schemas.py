"""The goal: what the API accepts, as a marshmallow schema of its wire format and a frozen object.

The rules are those of the vendor's page "Метод достижения цели" (``POST /outer/v1.0/goal/reach``).
Where that page is silent the schema is strict about syntax and silent about meaning. Producers
and workers use the same schema. No message repeats a value that it refuses: values can be
personal data, and messages end up in logs.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeGuard

from marshmallow import RAISE, Schema, ValidationError, fields, post_load

from .errors import InvalidGoal

__all__ = [
    "MAX_PARAMETER_LENGTH",
    "Goal",
    "GoalSchema",
    "format_created_on",
    "goal_from_message",
    "goal_from_wire",
    "goal_to_wire",
]

#: The vendor silently cuts longer values of client parameters; here they are an error.
MAX_PARAMETER_LENGTH = 512

_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_CREATED_ON = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?")
_GOAL_ID_HELP = "the goal's GUID in Sales Ninja, from the address of the goal editor"
_CUSTOMER_ID_HELP = "the client's GUID in Sales Ninja, from getCustomerIdAsync on the page"


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


class Guid(fields.Field[str]):
    """A GUID in the 8-4-4-4-12 form; the version is not checked, since the vendor ignores it."""

    default_error_messages = {
        "invalid": (
            "must be a GUID of 32 hexadecimal digits with hyphens, "
            'such as "299837db-9b51-45a4-996b-844d3fd05bbd" (no braces, no "urn:uuid:")'
        )
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if isinstance(value, uuid.UUID):
            return str(value)
        if not isinstance(value, str) or not _GUID.fullmatch(value):
            raise self.make_error("invalid")
        return value.lower()


class IpAddress(fields.Field[str]):
    """One IPv4 or IPv6 address, kept as it was written."""

    default_error_messages = {
        "invalid": (
            'must be one IPv4 or IPv6 address as a string, such as "185.237.80.128" or '
            '"2001:db8::1" (no port, no list, no zone); leave it out if it is not known'
        )
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or "%" in value:
            raise self.make_error("invalid")
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise self.make_error("invalid") from None
        return value


class CreatedOn(fields.Field[datetime]):
    """The time of the conversion: an aware datetime, or the API's text form in UTC."""

    default_error_messages = {
        "invalid": (
            'must be written "YYYY-MM-DD HH:MM:SS" or "YYYY-MM-DD HH:MM:SS.ffffff" in UTC, '
            'such as "2022-10-27 12:23:25.367999" (no "T", no "Z", no offset), '
            "or in Python an aware datetime"
        ),
        "naive": (
            "must not be a naive datetime, whose time zone would be a guess: "
            "use datetime.now(UTC), or attach the zone with .replace(tzinfo=...)"
        ),
        "calendar": "must be a date and time that exist, between the years 1 and 9999 in UTC",
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        if isinstance(value, datetime):
            return self._from_datetime(value)
        if not isinstance(value, str) or not _CREATED_ON.fullmatch(value):
            raise self.make_error("invalid")
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            raise self.make_error("calendar") from None

    def _from_datetime(self, value: datetime) -> datetime:
        if value.utcoffset() is None:
            raise self.make_error("naive")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise self.make_error("calendar") from None


class Parameters(fields.Field[Mapping[str, str]]):
    """An object of parameters, string to string, every fault reported under its own name."""

    default_error_messages = {
        # Doubled braces, because marshmallow formats this message.
        "invalid": 'must be an object of strings, such as {{"Revenue": "12350"}}; {{}} is allowed',
        "name": "a parameter's name must be a string that is not empty",
        "value": 'must be a string: write "12350" (in quotes), not 12350',
        "length": f"must have at most {MAX_PARAMETER_LENGTH} characters: shorten it",
        "text": "must be valid Unicode text: remove the lone surrogates",
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Mapping[str, str]:
        if not isinstance(value, Mapping):
            raise self.make_error("invalid")
        faults = {name: found for name in value if (found := self._faults(name, value[name]))}
        if faults:
            raise ValidationError(faults)
        return dict(value)

    def _faults(self, name: Any, value: Any) -> list[Any]:
        faults = []
        if not isinstance(name, str) or not name:
            faults.append(self.error_messages["name"])
        elif not _is_unicode(name):
            faults.append(self.error_messages["text"])
        if not isinstance(value, str):
            faults.append(self.error_messages["value"])
        elif len(value) > MAX_PARAMETER_LENGTH:
            faults.append(self.error_messages["length"])
        elif not _is_unicode(value):
            faults.append(self.error_messages["text"])
        return faults


class GoalSchema(Schema):
    """The JSON body of ``POST /outer/v1.0/goal/reach``.

    ``load`` gives a :class:`Goal` and reports all faults at once; ``null`` means absent. The way
    back is :func:`goal_to_wire`.
    """

    class Meta:
        """Refuse what the API does not know."""

        unknown = RAISE

    error_messages = {
        "unknown": (
            "is not a field of the API, which knows GoalId, CustomerId, SessionId, Ip, "
            "CreatedOnUtc, CustomUserScopeParams and CustomPageScopeParams: "
            "put your own data into CustomPageScopeParams, or remove it"
        ),
        "type": 'must be an object, such as {"GoalId": "...", "CustomerId": "..."}',
    }

    goal_id = Guid(
        data_key="GoalId",
        required=True,
        error_messages={
            "required": f"is missing: give {_GOAL_ID_HELP}",
            "null": f"must not be null: give {_GOAL_ID_HELP}",
        },
    )
    customer_id = Guid(
        data_key="CustomerId",
        required=True,
        error_messages={
            "required": f"is missing: give {_CUSTOMER_ID_HELP}",
            "null": f"must not be null: give {_CUSTOMER_ID_HELP}",
        },
    )
    session_id = Guid(data_key="SessionId", allow_none=True)
    ip = IpAddress(data_key="Ip", allow_none=True)
    created_on = CreatedOn(data_key="CreatedOnUtc", allow_none=True)
    user_params = Parameters(data_key="CustomUserScopeParams", allow_none=True)
    page_params = Parameters(data_key="CustomPageScopeParams", allow_none=True)

    @post_load
    def _to_goal(self, data: dict[str, Any], **kwargs: Any) -> Goal:
        return Goal(**data)


_SCHEMA = GoalSchema()

_WIRE_FIELDS = frozenset(str(one.data_key) for one in _SCHEMA.fields.values())
#: Exactly what ``ipaddress`` takes for an IPv4 address.
_IPV4 = re.compile(r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(?!$)|$)){4}", re.ASCII)


def goal_from_wire(body: Any) -> Goal:
    """Check a JSON body of the API and return it as a goal.

    Raises:
        InvalidGoal: with every fault of the body at once.
    """
    goal = _plain_goal(body)
    if goal is not None:
        return goal
    try:
        loaded: Goal = _SCHEMA.load(body)
    except ValidationError as error:
        raise InvalidGoal(dict(error.messages_dict)) from None
    return loaded


def _plain_goal(body: Any) -> Goal | None:
    """Return the goal of a body as most are, or ``None`` for the schema to look closely.

    It takes a fifth of the time, and what it returns is what the schema would.
    """
    if type(body) is not dict or not body.keys() <= _WIRE_FIELDS:
        return None
    get = body.get
    goal_id, customer_id, session_id = get("GoalId"), get("CustomerId"), get("SessionId")
    if not (_is_guid(goal_id) and _is_guid(customer_id)):
        return None
    if session_id is not None:
        if not _is_guid(session_id):
            return None
        session_id = session_id.lower()
    ip, text = get("Ip"), get("CreatedOnUtc")
    if ip is not None and not (type(ip) is str and _IPV4.fullmatch(ip)):
        return None
    created_on = None
    if text is not None:
        if not (type(text) is str and _CREATED_ON.fullmatch(text)):
            return None
        try:
            created_on = datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
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


def _is_guid(value: Any) -> TypeGuard[str]:
    return type(value) is str and _GUID.fullmatch(value) is not None


def _are_plain(parameters: Any) -> bool:
    """Return whether these are parameters in plain ASCII, or none."""
    if parameters is None:
        return True
    if type(parameters) is not dict:
        return False
    for name, value in parameters.items():
        if not (type(name) is str and name and name.isascii()):
            return False
        if not (type(value) is str and len(value) <= MAX_PARAMETER_LENGTH and value.isascii()):
            return False
    return True


def goal_from_message(args: Sequence[Any], kwargs: Mapping[str, Any], created_on: datetime) -> Goal:
    """Check the arguments of a task message and return its goal.

    Args:
        args: must be one JSON body of the API.
        kwargs: must be empty.
        created_on: the time of the conversion where the body has none.

    Raises:
        InvalidGoal: with every fault of the message at once.
    """
    if len(args) != 1 or kwargs:
        raise InvalidGoal(
            {"_schema": ["the task takes one positional argument, the JSON body of the API"]}
        )
    goal = goal_from_wire(args[0])
    return goal if goal.created_on else replace(goal, created_on=created_on)


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


def format_created_on(moment: datetime) -> str:
    """Write an aware datetime as the API wants it: UTC, always with six digits of a second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

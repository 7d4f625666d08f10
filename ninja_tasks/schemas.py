"""The schema of a goal: every rule of the API for its wire format, as marshmallow checks it.

Producers and workers use the same schema, for what :func:`ninja_tasks.goals.plain_goal` does not
see at once to be right. No message repeats a value that it refuses: values can be personal data,
and messages end up in logs.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load

from .errors import InvalidGoal
from .goals import (
    CREATED_ON,
    GUID,
    MAX_AHEAD,
    MAX_PARAMETER_LENGTH,
    WIRE_NAMES,
    Goal,
    is_unicode,
)

__all__ = ["GoalSchema", "load_goal"]

_GOAL_ID_HELP = "the goal's GUID in Sales Ninja, from the address of the goal editor"
_QUARTER = timedelta(minutes=15)

#: The time that a conversion may not be ahead of; ``None`` for this machine's.
_NOW: ContextVar[datetime | None] = ContextVar("now", default=None)

_CUSTOMER_ID_HELP = "the client's GUID in Sales Ninja, from getCustomerIdAsync on the page"


# Only marshmallow 4 lets a field say the type of its value.
class Guid(fields.Field):  # type: ignore[type-arg]
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
        if not isinstance(value, str) or not GUID.fullmatch(value):
            raise self.make_error("invalid")
        return value.lower()


class IpAddress(fields.Field):  # type: ignore[type-arg]
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


class CreatedOn(fields.Field):  # type: ignore[type-arg]
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
        "offset": (
            "must have a time zone whose offset is a multiple of 15 minutes, and not a zone's mean "
            "solar time of long ago: with pytz write zone.localize(naive) instead of "
            "tzinfo=zone, or use zoneinfo.ZoneInfo"
        ),
        "calendar": "must be a date and time that exist, between the years 1 and 9999 in UTC",
        "ahead": (
            "must not be more than 5 minutes ahead of the clock: "
            "convert a local time to UTC, or set the clock right"
        ),
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        is_datetime = isinstance(value, datetime)
        moment = self._from_datetime(value) if is_datetime else self._from_text(value)
        if moment - (_NOW.get() or datetime.now(UTC)) > MAX_AHEAD:
            raise self.make_error("ahead")
        return moment

    def _from_text(self, value: Any) -> datetime:
        if not isinstance(value, str) or not CREATED_ON.fullmatch(value):
            raise self.make_error("invalid")
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            raise self.make_error("calendar") from None

    def _from_datetime(self, value: datetime) -> datetime:
        offset = value.utcoffset()
        if offset is None:
            raise self.make_error("naive")
        if offset % _QUARTER:
            raise self.make_error("offset")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise self.make_error("calendar") from None


class Parameters(fields.Field):  # type: ignore[type-arg]
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
        elif not is_unicode(name):
            faults.append(self.error_messages["text"])
        if not isinstance(value, str):
            faults.append(self.error_messages["value"])
        elif len(value) > MAX_PARAMETER_LENGTH:
            faults.append(self.error_messages["length"])
        elif not is_unicode(value):
            faults.append(self.error_messages["text"])
        return faults


class GoalSchema(Schema):
    """The JSON body of ``POST /outer/v1.0/goal/reach``.

    ``load`` gives a :class:`Goal` and reports all faults at once; ``null`` means absent. The way
    back is :func:`ninja_tasks.goals.goal_to_wire`.
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
        data_key=WIRE_NAMES["goal_id"],
        required=True,
        error_messages={
            "required": f"is missing: give {_GOAL_ID_HELP}",
            "null": f"must not be null: give {_GOAL_ID_HELP}",
        },
    )
    customer_id = Guid(
        data_key=WIRE_NAMES["customer_id"],
        required=True,
        error_messages={
            "required": f"is missing: give {_CUSTOMER_ID_HELP}",
            "null": f"must not be null: give {_CUSTOMER_ID_HELP}",
        },
    )
    session_id = Guid(data_key=WIRE_NAMES["session_id"], allow_none=True)
    ip = IpAddress(data_key=WIRE_NAMES["ip"], allow_none=True)
    created_on = CreatedOn(data_key=WIRE_NAMES["created_on"], allow_none=True)
    user_params = Parameters(data_key=WIRE_NAMES["user_params"], allow_none=True)
    page_params = Parameters(data_key=WIRE_NAMES["page_params"], allow_none=True)

    @post_load
    def _to_goal(self, data: dict[str, Any], **kwargs: Any) -> Goal:
        return Goal(**data)


_SCHEMA = GoalSchema()


def load_goal(body: Any, now: datetime | None = None) -> Goal:
    """Check a JSON body of the API by the schema and return it as a goal.

    Args:
        body: the JSON body of the API.
        now: the time that a conversion may not be ahead of. Default: this machine's.

    Raises:
        InvalidGoal: with every fault of the body at once.
    """
    token = _NOW.set(now)
    try:
        goal: Goal = _SCHEMA.load(body)
    except ValidationError as error:
        raise InvalidGoal(dict(error.messages_dict)) from None
    finally:
        _NOW.reset(token)
    return goal

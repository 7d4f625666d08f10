"""Goals that must be refused: what is wrong, the field that the message names, and the remedy."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
CUSTOMER_ID = "2eccd743-4164-4892-a416-dc5c16f44971"
GOOD = {"goal_id": GOAL_ID, "customer_id": CUSTOMER_ID}

GUID = "must be a GUID of 32 hexadecimal digits with hyphens"
ADDRESS = "must be one IPv4 or IPv6 address as a string"
WRITTEN = 'must be written "YYYY-MM-DD HH:MM:SS"'
EXIST = "must be a date and time that exist"
AHEAD = "must not be more than 5 minutes ahead of the clock: convert a local time to UTC"
OFFSET = "with pytz write zone.localize(naive) instead of tzinfo=zone"
STRING = 'must be a string: write "12350" (in quotes), not 12350'
AMOUNT = "must be an int, a Decimal or a plain numeric string"
NAME = "a parameter's name must be a string that is not empty"
EAST, WEST = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))
#: What pytz has for Moscow before 1880, and gives to whoever writes ``tzinfo=zone``.
MOSCOW_OF_PYTZ = timezone(timedelta(hours=2, minutes=30, seconds=17))


class Bad(NamedTuple):
    """Arguments on top of a good goal, the path in the message, and a part of the remedy."""

    arguments: dict[Any, Any]
    path: str
    remedy: str


def _each(name: str, path: str, remedy: str, *values: Any) -> list[Bad]:
    return [Bad({name: value}, path, remedy) for value in values]


PAGE, USER = "CustomPageScopeParams", "CustomUserScopeParams"

#: What the wire format refuses too, whoever sends it.
BAD_BODIES = [
    *_each(
        "goal_id",
        "GoalId",
        GUID,
        "",
        "not-a-guid",
        "{299837db-9b51-45a4-996b-844d3fd05bbd}",
        "urn:uuid:299837db-9b51-45a4-996b-844d3fd05bbd",
        "299837db9b5145a4996b844d3fd05bbd",
        "299837db-9b51-45a4-996b-844d3fd05bb",
        "299837db-9b51-45a4-996b-844d3fd05bbdd",
        "g99837db-9b51-45a4-996b-844d3fd05bbd",
        "299837db-9b51-45a4-996b-844d3fd05bb٣",
        "299837db-9b51-45a4-996b-844d3fd05bbd\n",
        " 299837db-9b51-45a4-996b-844d3fd05bbd",
        "299837db-9b51-45a4-996b_844d3fd05bbd",
        424242,
        1.5,
        True,
        ["299837db-9b51-45a4-996b-844d3fd05bbd"],
    ),
    Bad({"goal_id": None}, "GoalId", "give the goal's GUID in Sales Ninja"),
    *_each("customer_id", "CustomerId", GUID, "", "GA1.2.1234", "undefined", 0),
    Bad({"customer_id": None}, "CustomerId", "give the client's GUID in Sales Ninja"),
    *_each("session_id", "SessionId", GUID, "", "sn-sid", 77),
    *_each(
        "ip",
        "Ip",
        ADDRESS,
        "",
        "999.237.80.128",
        "185.237.80",
        "185.237.80.128:443",
        "185.237.80.128, 10.0.0.1",
        "185.237.80.128/24",
        "185.237.080.128",
        "185.237.80.128 ",
        "localhost",
        "fe80::1%eth0",
        "[2001:db8::1]",
        "2001:db8:::1",
        3118288000,
        ["185.237.80.128"],
    ),
    *_each(
        "created_on",
        "CreatedOnUtc",
        WRITTEN,
        "",
        "2022-10-27T12:23:25.367999",
        "2022-10-27 12:23:25.367999Z",
        "2022-10-27 12:23:25+03:00",
        "2022-10-27 12:23:25.367",
        "2022-10-27 12:23",
        "2022-10-27",
        "27.10.2022 12:23:25",
        "٢٠٢٢-10-27 12:23:25",
        1666873405,
        1666873405.5,
    ),
    *_each(
        "created_on",
        "CreatedOnUtc",
        EXIST,
        "2022-02-30 12:23:25",
        "2022-10-27 24:23:25",
        "2022-10-27 12:23:60",
        "0000-10-27 12:23:25",
    ),
    *_each(
        "created_on",
        "CreatedOnUtc",
        AHEAD,
        "2199-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
    ),
    *_each(
        "page_params",
        f"{PAGE}.Revenue",
        STRING,
        {"Revenue": 12350},
        {"Revenue": 123.5},
        {"Revenue": True},
        {"Revenue": None},
        {"Revenue": {"amount": "12350"}},
        {"Revenue": ["12350"]},
    ),
    *_each("user_params", f"{USER}.tier", STRING, {"tier": 7}, {"tier": False}),
    *_each("page_params", f"{PAGE}.note", "at most 512 characters", {"note": "x" * 513}),
    *_each("user_params", f"{USER}.note", "at most 512 characters", {"note": "ы" * 513}),
    *_each("page_params", f"{PAGE}.note", "valid Unicode text", {"note": "\ud800"}),
    *_each("page_params", PAGE, NAME, {"": "value"}),
    *_each("page_params", PAGE, "must be an object of strings", [], "", "Revenue=1", 5, ["a"]),
    *_each("user_params", USER, "must be an object of strings", [["a", "b"]], True),
]

#: What only a caller in Python can get wrong.
BAD_ARGUMENTS = [
    *_each(
        "created_on",
        "CreatedOnUtc",
        "must not be a naive datetime",
        datetime(2022, 10, 27, 12, 23, 25),  # noqa: DTZ001 (the mistake to be refused)
    ),
    *_each("created_on", "CreatedOnUtc", WRITTEN, date(2022, 10, 27)),
    *_each("created_on", "CreatedOnUtc", AHEAD, datetime(2199, 1, 1, tzinfo=WEST)),
    *_each(
        "created_on",
        "CreatedOnUtc",
        OFFSET,
        datetime(2022, 10, 27, 12, 23, 25, tzinfo=MOSCOW_OF_PYTZ),
        datetime(2022, 10, 27, 12, 23, 25, tzinfo=timezone(timedelta(minutes=-7))),
    ),
    *_each(
        "created_on",
        "CreatedOnUtc",
        EXIST,
        datetime(1, 1, 1, tzinfo=EAST),
        datetime(9999, 12, 31, 23, tzinfo=WEST),
    ),
    *_each("goal_id", "GoalId", GUID, b"299837db-9b51-45a4-996b-844d3fd05bbd"),
    *_each("page_params", f"{PAGE}.7", NAME, {7: "value"}),
    *_each(
        "revenue",
        "revenue",
        AMOUNT,
        123.5,
        True,
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1E+1000"),
        10**5000,
        "",
        "abc",
        "1e3",
        "12,50",
        "12 350",
        "+5",
        "12350 RUB",
        "٣",
        [12350],
    ),
    *_each("net_profit", "net_profit", AMOUNT, 9.5, "n/a"),
    Bad({"revenue": 1, "page_params": {"Revenue": "2"}}, "revenue", "give it once"),
    *_each("key", "key", "must be a string that is not empty", "", 17, b"order", ["order"]),
    *_each("key", "key", "must be printable text", "order\n17", "\ud800"),
    *_each("on_unknown", "on_unknown", '"retry" or "dead_letter"', "", "ignore", True, ["retry"]),
    *_each("amount", "amount", "is not an argument of enqueue_goal", 1),
    Bad({"GoalId": GOAL_ID}, "GoalId", "is given twice"),
    Bad({5: "x"}, "5", "is not an argument of enqueue_goal"),
]

#: Examples that stand in the messages; some bad values are parts of them.
_EXAMPLES = f"{GOAL_ID} 185.237.80.128 2022-10-27 12:23:25.367999"

#: Values too short or too common to be looked for in a text.
_SHORTEST_TRACE = 6


def describe(bad: Bad) -> str:
    """Return a short name for a test's id; a huge number has no text at all."""
    value = next(iter(bad.arguments.values()))
    return f"{bad.path}={'huge' if isinstance(value, int) and value > 10**20 else value!r}"[:60]


def trace_of(arguments: dict[Any, Any]) -> str | None:
    """Return a text that must not be repeated in a message, if a value is telling enough."""
    value = next(iter(arguments.values()))
    text = str(value) if isinstance(value, str | float) else ""
    telling = len(text) >= _SHORTEST_TRACE and text.isprintable() and text not in _EXAMPLES
    return text if telling else None

"""The bodies that every contender posts: one goal each, with all that a shop would send."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime


def bodies(number: int) -> Iterator[dict[str, object]]:
    """Yield so many bodies, each of a client of its own."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    for i in range(number):
        yield {
            "GoalId": "299837db-9b51-45a4-996b-844d3fd05bbd",
            "CustomerId": str(uuid.uuid4()),
            "SessionId": "0e7b6f2a-3f0e-4d36-9f3c-0d6c2d6f9b11",
            "Ip": "203.0.113.7",
            "CreatedOnUtc": now,
            "CustomUserScopeParams": {"Segment": "returning"},
            "CustomPageScopeParams": {"Revenue": "12350", "Order": f"A-{i}"},
        }

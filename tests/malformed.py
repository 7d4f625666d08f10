"""Messages that are no goals, as they can come to lie on a queue."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

GOAL = {
    "GoalId": "299837db-9b51-45a4-996b-844d3fd05bbd",
    "CustomerId": "2eccd743-4164-4892-a416-dc5c16f44971",
    "CreatedOnUtc": "2026-01-01 00:00:00.000001",
}


@dataclass
class Parts:
    """A message before a broker's own packing; as it is here it is a good one."""

    body: bytes = field(
        default_factory=lambda: json.dumps(
            [[GOAL | {"CustomerId": str(uuid.uuid4())}], {}, {}]
        ).encode()
    )
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    headers: Any = field(
        default_factory=lambda: {
            "id": str(uuid.uuid4()),
            "task": "ninja_tasks.reach_goal",
            "lang": "py",
            "retries": 0,
        }
    )

    def packed(self) -> dict[str, Any]:
        """Return the document that kombu would write for Redis."""
        return {
            "body": base64.b64encode(self.body).decode(),
            "content-type": self.content_type,
            "content-encoding": self.content_encoding,
            "headers": self.headers,
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "ninja_tasks"},
                "delivery_tag": str(uuid.uuid4()),
                "priority": 0,
            },
        }


def _body(value: Any) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.body = value if isinstance(value, bytes) else json.dumps(value).encode()

    return change


def _header(name: str, value: Any) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.headers[name] = value

    return change


def _without(name: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del parts.headers[name]

    return change


def _of_type(content_type: str, content_encoding: str = "utf-8") -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.content_type, parts.content_encoding = content_type, content_encoding

    return change


#: Every broker can carry these.
CASES: dict[str, Callable[[Parts], None]] = {
    "a body that is not JSON": _body(b"{bad json"),
    "an empty body": _body(b""),
    "a body that is not UTF-8": _body(b"\xff\xfe[[]]"),
    "a body of null": _body(None),
    "a body that is a number": _body(17),
    "a body that is a text": _body("goal"),
    "a body that is no triple": _body({"x": 1}),
    "a body of two parts": _body([[GOAL], {}]),
    "arguments that are no list": _body([1, 2, 3]),
    "keywords that are a list": _body([[GOAL], [1], {}]),
    "options that are a list": _body([[GOAL], {}, [1]]),
    "options that are a text": _body([[GOAL], {}, "text"]),
    "a body nested too deeply": _body(b"[" * 200_000 + b"]" * 200_000),
    "a number with too many digits": _body(b"[[" + b"9" * 10_000 + b"], {}, {}]"),
    "an unknown task": _header("task", "nope"),
    "a task that is a list": _header("task", ["ninja_tasks.reach_goal"]),
    "no task": _without("task"),
    "no headers at all": lambda parts: parts.headers.clear(),
    "no id": _without("id"),
    "an id that is a number": _header("id", 17),
    "an empty id": _header("id", ""),
    "an id of many letters": _header("id", "x" * 5000),
    "retries that are a text": _header("retries", "many"),
    "retries below zero": _header("retries", -1),
    "a time limit that is a text": _header("timelimit", "soon"),
    "a time limit of one part": _header("timelimit", [1]),
    "stamps that are a text": _header("stamps", "text"),
    "a root that is a table": _header("root_id", {"a": 1}),
    "a group that is a list": _header("group", [1]),
    "a pickle": _of_type("application/x-python-serialize", "binary"),
    "an unknown content type": _of_type("application/x-nothing"),
    "an unknown compression": _header("compression", "application/x-nothing"),
}

#: Messages that a worker can take, of goals that it cannot.
INVALID: dict[str, Callable[[Parts], None]] = {
    "no argument": _body([[], {}, {}]),
    "an argument too many": _body([[GOAL, 1], {}, {}]),
    "an unknown keyword": _body([[GOAL], {"x": 1}, {}]),
    "an ETA that is no time": _header("eta", "yesterday"),
    "an expiry that is no time": _header("expires", "tomorrow"),
    "an attempt that is a text": _header("ninja_attempts", "three"),
    "nested headers that are a text": lambda parts: parts.headers.update(
        headers="text", ninja_replays=-1
    ),
}


def _document(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = Parts().packed()
    change(document)
    return json.dumps(document).encode()


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.__setitem__(name, value)


def _set_property(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["properties"].__setitem__(name, value)


#: What only a list of Redis can carry, where nobody checks what is pushed.
ON_A_LIST: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"garbage{",
    "bytes of zero": b"\x00" * 100,
    "no UTF-8": b"\xff\xfe\xfd",
    "a quote and a bracket": b'","",""]',
    "an entry of the hash": b'[{}],"","ninja_tasks"]',
    "null": b"null",
    "a number": b"17",
    "a list": b"[1, 2]",
    "an empty object": b"{}",
    "JSON nested too deeply": b"[" * 200_000,
    "no properties": _document(lambda document: document.pop("properties")),
    "properties that are a list": _document(_set("properties", [1])),
    "headers that are a list": _document(_set("headers", [1])),
    "headers that are a text": _document(_set("headers", "text")),
    "a body that is a number": _document(_set("body", 17)),
    "a body that is an object": _document(_set("body", {"a": 1})),
    "no body": _document(lambda document: document.pop("body")),
    "a body that is no base64": _document(_set("body", "%%%")),
    "an unknown encoding of the body": _document(_set_property("body_encoding", "rot13")),
    "a place that is a text": _document(_set_property("delivery_info", "here")),
}

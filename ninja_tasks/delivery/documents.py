"""Documents in Redis, as this version or a neighbouring one wrote them.

Workers of two versions run together while an application is upgraded. So a reader takes fields by
name, ignores those that it does not know, and gives defaults to those that are missing. What it
cannot read at all is an :class:`UnreadableDocument`, for the caller to set aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, get_origin, get_type_hints

__all__ = ["UnreadableDocument", "as_stored", "fields_of", "read_object"]


class UnreadableDocument(ValueError):
    """Raised when a document cannot be read; the text says why, without anything of its content."""


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a document is.

    Raises:
        UnreadableDocument: if it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableDocument("is not JSON") from None
    if not isinstance(value, dict):
        raise UnreadableDocument("is not a JSON object")
    return value


def as_stored(text: str) -> bytes:
    """Return the bytes of a document that was read, also of one that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def fields_of(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a data class that a document gives.

    Args:
        kind: the data class. A field without a default must be there.
        given: what the document gives, by name.

    Raises:
        UnreadableDocument: if a field is missing or has a type that the data class does not allow.
    """
    types = _types_of(kind)
    found = {}
    for field in fields(kind):
        if field.name not in given:
            if field.default is MISSING and field.default_factory is MISSING:
                raise UnreadableDocument(f"has no {field.name}")
        elif not _fits(given[field.name], types[field.name]):
            raise UnreadableDocument(f"has a {field.name} of another type")
        else:
            found[field.name] = given[field.name]
    return found


@cache
def _types_of(kind: type) -> dict[str, Any]:
    """Return what ``isinstance`` takes for the type of each field."""
    return {name: _checkable(hint) for name, hint in get_type_hints(kind).items()}


def _checkable(hint: Any) -> Any:
    if hint is Any:
        return object
    return hint if isinstance(hint, UnionType) else get_origin(hint) or hint


def _fits(value: Any, wanted: Any) -> bool:
    # To Python a bool is an int.
    if isinstance(value, bool) and wanted in (int, int | None):
        return False
    return isinstance(value, wanted)

"""What a look returns, and how it speaks of addresses without giving secrets away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["FAULT", "OK", "WARNING", "Finding", "without_secrets"]

#: Goals are or will be lost or stuck; they may be; all is well.
FAULT, WARNING, OK = "fault", "warning", "ok"

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+]*)://([^/?#@]*@)?"
    r"(?P<place>(\[[0-9A-Fa-f:.]+\]|[\w.-]*)(:[0-9]+)?(/[^?#@]*)?)(\?[^#@]*)?"
)
_SCHEME = re.compile(r"[a-z][a-z0-9+]*(?=://)")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one place.

    Attributes:
        level: ``"fault"``: goals are or will be lost or stuck; ``"warning"``: they may be;
            ``"ok"``.
        name: the place, such as ``"broker.eviction"``; it stays the same for scripts.
        message: what was found, and what may happen.
        remedy: how to mend it; ``None`` where nothing is to be mended.
    """

    level: str
    name: str
    message: str
    remedy: str | None = None


def without_secrets(url: Any) -> str:
    """Return the addresses in a URL, without user, password and options."""
    parts = str(url).split(";")
    found = [_ADDRESS.fullmatch(part) for part in parts]
    # An address that cannot be told apart from its password is not shown at all.
    if not all(found):
        scheme = _SCHEME.match(parts[0])
        return f"{scheme[0]}://..." if scheme else "..."
    return ";".join(f"{one['scheme']}://{one['place']}" for one in found if one)

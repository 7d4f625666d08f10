"""Which kombu this package was tested with: how it lays messages into a Redis is not promised."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["NEWEST_KOMBU", "is_kombu_tested"]

NEWEST_KOMBU = "5.7"


def is_kombu_tested(installed: str | None = None) -> bool:
    """Return whether a version of kombu is none that is newer than all that were tested.

    Args:
        installed: the version; by default the one that is installed.
    """
    found = (installed or version("kombu")).split(".")[:2]
    try:
        return [int(part) for part in found] <= [int(part) for part in NEWEST_KOMBU.split(".")]
    except ValueError:
        return False

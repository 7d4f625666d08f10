"""Why a server cannot be used, told by what a person has to correct."""

from __future__ import annotations

import amqp
import redis

from ..errors import told_by
from .finding import FAULT, Finding

__all__ = ["unusable"]

_WRONG_PASSWORD = (redis.AuthenticationError, amqp.AccessRefused)
#: What is raised by an address that nobody tried to connect to.
_WRONG_ADDRESS = (ValueError, LookupError, AttributeError, TypeError, ImportError)


def unusable(name: str, title: str, error: BaseException, then: str, settings: str) -> Finding:
    """Return the fault of a server that cannot be used.

    Args:
        name: of the finding.
        title: of the server, with its address and without its password.
        error: what came of the attempt to use it.
        then: what does not work without it.
        settings: where its address is set.
    """
    reasons = error, error.__cause__
    if any(isinstance(one, _WRONG_PASSWORD) for one in reasons):
        what = f"refuses the user or the password ({told_by(error)})"
        remedy = f"correct them in {settings}"
    elif isinstance(error, _WRONG_ADDRESS):
        what = f"has an address that cannot be used ({told_by(error)})"
        remedy = (
            f'write {settings} such as "redis://localhost:6379/0" or '
            '"amqp://user:password@localhost:5672//", with special characters of a password '
            "percent-encoded"
        )
    else:
        what = f"cannot be used ({told_by(error)})"
        remedy = f"start it, or correct {settings}"
    return Finding(FAULT, name, f"{title} {what}: {then}", remedy)

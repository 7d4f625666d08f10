"""What an error of Redis means for whoever asked: the one place that knows.

==================  ==============================================================================
kind                what it means, and what to do
==================  ==============================================================================
connection          no answer came: connect anew and ask again
wrong server        this server may not answer: it has become a replica, loads its data, or another
                    node has the key. The connection is dropped, because behind one address the next
                    one can lead to the right server. :func:`dropping` makes a connection do so
refused             writes are refused for now: no memory, no replicas, no disk, no permission. Ask
                    again later; something or somebody has to change the server
lasting             the question itself is wrong, or a key has a wrong type. Asking again is in vain
==================  ==============================================================================
"""

from __future__ import annotations

import re
from typing import Any

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import ResponseError

__all__ = [
    "UnsettledError",
    "WrongServerError",
    "can_pass",
    "dropping",
    "is_refused",
    "reason_of",
]

_WRONG_SERVER = ("READONLY", "MOVED", "ASK", "MASTERDOWN", "UNBLOCKED", "LOADING")
_REFUSED = (
    "OOM",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
)

#: redis-py takes the code off the text of errors that it knows, and says it in the class.
_CODES_OF_CLASSES = {
    "ReadOnlyError": "READONLY",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "NoPermissionError": "NOPERM",
}
#: At the start, or where Redis before version 7 repeats what a command of a script was told.
_CODE = re.compile(r"^(?P<first>[A-Z]{3,})\b|: -(?P<inner>[A-Z]{3,})\b")
#: A pipeline's error repeats the command and Redis the arguments it does not know: both hold goals.
_PIPELINE = re.compile(r"Command # [0-9]+ \(.*\) of pipeline caused error: ", re.DOTALL)
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_LONGEST_REASON = 160


class WrongServerError(redis.ConnectionError):
    """The server at the other end of this connection may not answer, so it was closed."""


class UnsettledError(redis.RedisError):
    """What this thread asked before was refused, and is asked again."""


def dropping(connection_class: type[Any]) -> type[Any]:
    """Return a class of connections that are closed by the answer of a wrong server.

    Such an answer is a :class:`WrongServerError`, so whoever asked connects anew, as after any
    lost connection.

    Args:
        connection_class: one of redis-py's, or of a library on top of it.
    """
    return type(f"Dropping{connection_class.__name__}", (_Dropping, connection_class), {})


class _Dropping:
    def read_response(self: Any, *positional: Any, **options: Any) -> Any:
        try:
            return super().read_response(*positional, **options)  # type: ignore[misc]
        except ResponseError as error:
            if _code_of(error) not in _WRONG_SERVER:
                raise
            self.disconnect()
            raise WrongServerError(reason_of(error)) from None


def is_refused(error: BaseException) -> bool:
    """Return whether Redis refuses for now what it would take at another time."""
    return isinstance(error, ResponseError) and _code_of(error) in _REFUSED


def can_pass(error: BaseException) -> bool:
    """Return whether the same question may be answered later."""
    if isinstance(error, ResponseError):
        return is_refused(error) or _code_of(error) in _WRONG_SERVER
    return isinstance(
        error, redis.ConnectionError | redis.TimeoutError | UnsettledError | OperationalError
    )


def reason_of(error: BaseException) -> str:
    """Return why something failed, in words for a log, without anything of a goal."""
    text = _ARGUMENTS.sub("", _PIPELINE.sub("", str(error)))
    text = " ".join(text.split())[:_LONGEST_REASON]
    code = _CODES_OF_CLASSES.get(type(error).__name__)
    if code and not text.startswith(code):
        text = f"{code} {text}"
    return text or type(error).__name__


def _code_of(error: ResponseError) -> str | None:
    code = _CODES_OF_CLASSES.get(type(error).__name__)
    if code is not None:
        return code
    found = _CODE.search(_PIPELINE.sub("", str(error)))
    return (found["inner"] or found["first"]) if found else None

"""What one attempt meant and what follows from it: decisions, no input or output.

=============  =====================================================  ==============================
outcome        when                                                   then
=============  =====================================================  ==============================
``delivered``  2xx                                                    done
``not_sent``   the request was not written: DNS, refused connection,  retry; cannot have counted
               connect timeout, TLS or proxy failure
``refused``    408, 425, 429, 503                                     retry; ``Retry-After`` is
                                                                      obeyed, a 429 is not charged
``unknown``    the request was written and no clear answer came:      may have counted;
               read timeout, lost connection, other 5xx, 1xx          ``on_unknown`` decides
``rejected``   any other 4xx, any 3xx                                 dead letter at once
=============  =====================================================  ==============================
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from ..errors import NotSent, Refused, TransientError, UnknownOutcome

__all__ = [
    "Attempt",
    "Outcome",
    "Verdict",
    "backoff_seconds",
    "decide",
    "outcome_of_failure",
    "outcome_of_status",
    "retry_after_seconds",
    "transient_error",
]

_REFUSALS = frozenset({408, 425, 429, 503})
_NEVER_CHARGED = frozenset({429})
#: A header that came twice reads as one with two values.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?(\s*,\s*[0-9]+(\.[0-9]*)?)*", re.ASCII)
_SHORTEST_HOLD_SECONDS, _LONGEST_HOLD_SECONDS = 1.0, 3600.0


class Outcome(StrEnum):
    """What an attempt meant for the goal."""

    DELIVERED = "delivered"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    REJECTED = "rejected"


class Verdict(StrEnum):
    """What happens to the goal after an attempt; all but the first two are dead letters."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver a goal.

    Attributes:
        outcome: what it meant.
        started_at: aware datetime in UTC.
        milliseconds: how long it took.
        status: HTTP status, ``None`` without an answer.
        error: name of the exception's class where there was no answer.
        retry_after_seconds: the wait that the API asked for, within its bounds.
        excerpt: up to 2 KiB of the answer's body; it can echo personal data.
    """

    outcome: Outcome
    started_at: datetime
    milliseconds: int
    status: int | None = None
    error: str | None = None
    retry_after_seconds: float | None = None
    excerpt: str = ""

    @property
    def phase(self) -> str:
        """How far it came: ``connect`` (nothing written), ``send`` (no answer) or ``answer``."""
        if self.status is not None:
            return "answer"
        return "connect" if self.outcome is Outcome.NOT_SENT else "send"

    @property
    def charged(self) -> bool:
        """Whether it counts towards ``max_attempts``: a 429 is the API's limit, not a failure."""
        return self.outcome in (Outcome.NOT_SENT, Outcome.UNKNOWN) or (
            self.outcome is Outcome.REFUSED and self.status not in _NEVER_CHARGED
        )

    @property
    def feeds_breaker(self) -> bool:
        """Whether it shows that the API is ill; a 429 shows that it is well and busy."""
        return self.charged

    @property
    def cause(self) -> str:
        """What went wrong in a few words, without any data of the goal."""
        return f"status {self.status}" if self.status is not None else f"{self.error}"


def outcome_of_status(status: int) -> Outcome:
    """Return what an HTTP status means for the goal."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status in _REFUSALS:
        return Outcome.REFUSED
    if 300 <= status < 500:
        return Outcome.REJECTED
    return Outcome.UNKNOWN


def outcome_of_failure(*, request_written: bool) -> Outcome:
    """Return what an exception instead of an answer means for the goal.

    Args:
        request_written: whether any byte of the request's body was handed to the connection.
            Without its body a request cannot have been counted, whatever the exception was.
    """
    return Outcome.UNKNOWN if request_written else Outcome.NOT_SENT


def retry_after_seconds(status: int, headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the wait that an answer asks for, from 1 second to 1 hour, or ``None``.

    Args:
        status: only the statuses that mean ``refused`` are listened to.
        headers: of the answer; ``Retry-After`` is an HTTP date or seconds (RFC 9110, 10.2.3), also
            with a fraction. Of several numbers of seconds the longest counts.
        now: aware datetime, from which a date is counted.
    """
    text = headers.get("Retry-After", "").strip()
    if status not in _REFUSALS or not text:
        return None
    if _SECONDS.fullmatch(text):
        seconds = max(map(float, text.split(",")))
    else:
        try:
            date = parsedate_to_datetime(text)
            # RFC 5322 gives "-0000" for an unknown zone, which Python reads as a naive datetime.
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, _SHORTEST_HOLD_SECONDS), _LONGEST_HOLD_SECONDS)


def decide(attempt: Attempt, *, charged: int, max_attempts: int, on_unknown: str) -> Verdict:
    """Return what happens to the goal after an attempt.

    Args:
        attempt: the attempt.
        charged: attempts charged to the goal so far, this one included.
        max_attempts: charged attempts after which it is given up.
        on_unknown: ``"retry"`` or ``"dead_letter"``, for an attempt that may have counted.
    """
    if attempt.outcome is Outcome.DELIVERED:
        return Verdict.DELIVERED
    if attempt.outcome is Outcome.REJECTED:
        return Verdict.REJECTED
    if attempt.outcome is Outcome.UNKNOWN and on_unknown == "dead_letter":
        return Verdict.UNKNOWN
    if attempt.charged and charged >= max_attempts:
        return Verdict.EXHAUSTED
    return Verdict.RETRY


def backoff_seconds(retries: int, first: float, longest: float) -> float:
    """Return the wait before another attempt, between half and all of the exponential delay.

    Args:
        retries: retries so far.
        first: seconds of the first delay, which doubles with each retry.
        longest: seconds that no delay exceeds.
    """
    # Beyond this many doublings every delay is the longest; the power itself has no bound.
    delay = min(first * 2 ** min(retries, 32), longest)
    return random.uniform(delay / 2, delay)  # noqa: S311 (it spreads retries, and hides nothing)


def transient_error(attempt: Attempt) -> TransientError:
    """Return the exception that makes Celery try the goal again."""
    kinds: dict[Outcome, type[TransientError]] = {
        Outcome.NOT_SENT: NotSent,
        Outcome.REFUSED: Refused,
        Outcome.UNKNOWN: UnknownOutcome,
    }
    return kinds[attempt.outcome](attempt.cause, attempt.retry_after_seconds)

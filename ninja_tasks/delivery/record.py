"""The record of one goal's delivery: who it is, since when, and which attempts were made.

Between attempts the record travels in the message's headers, so it survives the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..config import ON_UNKNOWN
from ..errors import InvalidGoal
from ..message import (
    ATTEMPTS_HEADER,
    ENQUEUED_AT_HEADER,
    EXPIRES_AT_HEADER,
    HEADER_PREFIX,
    HEADERS,
    ON_UNKNOWN_HEADER,
    REPLAYS_HEADER,
)
from .documents import UnreadableDocument, fields_of
from .outcomes import Attempt, Outcome

__all__ = ["AttemptLine", "DeliveryRecord", "history_of"]

T = TypeVar("T")

#: The first attempt and this many of the last are kept.
_LAST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One line of the history. Words that another version wrote are kept as they are.

    Attributes:
        at: when the attempt began, ISO 8601.
        outcome: what it meant.
        status: HTTP status, ``None`` without an answer.
        milliseconds: how long it took, ``None`` for one whose worker was lost.
        phase: how far it came: ``"connect"``, ``"send"`` or ``"answer"``.
        error: name of the exception's class where there was no answer.
    """

    at: str
    outcome: str
    status: int | None = None
    milliseconds: int | None = None
    phase: str = "answer"
    error: str | None = None

    @classmethod
    def from_document(cls, document: Any) -> AttemptLine:
        """Return a line as it was stored, in a letter by name or in a header by position.

        Raises:
            UnreadableDocument: if it is no such line.
        """
        if isinstance(document, (list, tuple)):
            document = dict(zip(cls.__slots__, document, strict=False))
        if not isinstance(document, Mapping):
            raise UnreadableDocument("is no line of a history")
        line = cls(**fields_of(cls, document))
        try:
            return replace(line, at=datetime.fromisoformat(line.at).isoformat())
        except ValueError:
            raise UnreadableDocument("has no time") from None


def history_of(lines: Any) -> tuple[AttemptLine, ...]:
    """Return the lines of a stored history that can be read; the others say nothing."""
    found = []
    for line in lines if isinstance(lines, (list, tuple)) else ():
        with suppress(UnreadableDocument):
            found.append(AttemptLine.from_document(line))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """What is known of a goal's delivery when an attempt begins or ends.

    Attributes:
        delivery_id: the Celery task id.
        enqueued_at: aware datetime in UTC.
        on_unknown: the goal's own policy, ``None`` for the setting's.
        made: attempts made, whatever they were charged.
        charged: attempts that count towards ``max_attempts``.
        doubtful: attempts that may have counted.
        possible_duplicate: whether it was sent again after an attempt that may have counted.
        history: the first and the last ten attempts.
        replays: how often it was replayed from a dead letter.
        expires_at: when its sender wanted it to be given up, ``None`` if that is not said.
        others: headers of this package that this version does not know; they are passed on.
    """

    delivery_id: str
    enqueued_at: datetime
    on_unknown: str | None = None
    made: int = 0
    charged: int = 0
    doubtful: int = 0
    possible_duplicate: bool = False
    history: tuple[AttemptLine, ...] = ()
    replays: int = 0
    expires_at: datetime | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def received(
        cls, delivery_id: str, headers: Mapping[str, Any], now: datetime
    ) -> DeliveryRecord:
        """Return the record of a goal whose headers are not checked yet: its id and its time.

        Args:
            delivery_id: the Celery task id.
            headers: of the message.
            now: the time where the headers have none that can be read.
        """
        try:
            return cls(delivery_id, _moment(headers.get(ENQUEUED_AT_HEADER), now))
        except (TypeError, ValueError, OverflowError):
            return cls(delivery_id, now)

    def with_headers(self, headers: Mapping[str, Any]) -> DeliveryRecord:
        """Return the record that a message carries, on top of this one.

        Args:
            headers: custom headers of the message; a bare ``send_task`` has none.

        Raises:
            InvalidGoal: if a header of this package holds what it never writes.
        """
        attempts = headers.get(ATTEMPTS_HEADER)
        on_unknown = headers.get(ON_UNKNOWN_HEADER)
        if on_unknown not in (None, *ON_UNKNOWN):
            raise InvalidGoal({ON_UNKNOWN_HEADER: ['must be "retry" or "dead_letter", or absent']})
        try:
            told = DeliveryRecord(
                self.delivery_id,
                _moment(headers.get(ENQUEUED_AT_HEADER), self.enqueued_at),
                on_unknown,
                replays=_count(headers.get(REPLAYS_HEADER) or 0),
                expires_at=_moment(headers.get(EXPIRES_AT_HEADER), None),
                others=_unknown(headers),
            )
            return told._with_attempts(attempts) if attempts else told
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise InvalidGoal(
                {"headers": ["must be as this package writes them: leave the ninja_* headers out"]}
            ) from None

    def _with_attempts(self, attempts: Mapping[str, Any]) -> DeliveryRecord:
        return replace(
            self,
            made=_count(attempts.get("made", 0)),
            charged=_count(attempts.get("charged", 0)),
            doubtful=_count(attempts.get("doubtful", 0)),
            possible_duplicate=bool(attempts.get("possible_duplicate", False)),
            history=history_of(attempts.get("history")),
        )

    def headers(self) -> dict[str, Any]:
        """Return the message headers that carry this record to the next attempt."""
        headers = {**self.others, ENQUEUED_AT_HEADER: self.enqueued_at.isoformat()}
        if self.on_unknown:
            headers[ON_UNKNOWN_HEADER] = self.on_unknown
        if self.replays:
            headers[REPLAYS_HEADER] = self.replays
        if self.expires_at:
            headers[EXPIRES_AT_HEADER] = self.expires_at.isoformat()
        if self.made:
            headers[ATTEMPTS_HEADER] = {
                "made": self.made,
                "charged": self.charged,
                "doubtful": self.doubtful,
                "possible_duplicate": self.possible_duplicate,
                "history": [list(astuple(line)) for line in self.history],
            }
        return headers

    def after(self, attempt: Attempt) -> DeliveryRecord:
        """Return the record with one more attempt in it."""
        line = AttemptLine(
            attempt.started_at.isoformat(),
            attempt.outcome.value,
            attempt.status,
            attempt.milliseconds,
            attempt.phase,
            attempt.error,
        )
        sent_again = self.doubtful > 0 and attempt.outcome is not Outcome.NOT_SENT
        return replace(
            self,
            made=self.made + 1,
            charged=self.charged + attempt.charged,
            doubtful=self.doubtful + (attempt.outcome is Outcome.UNKNOWN),
            possible_duplicate=self.possible_duplicate or sent_again,
            history=self._history_with(line),
        )

    def with_lost_attempts(self, moments: Iterable[datetime]) -> DeliveryRecord:
        """Return the record with attempts whose workers ended before they could say what came.

        Those that it knows already are left out. The ledger has counted them.

        Args:
            moments: when those workers began them.
        """
        record = self
        for at in moments:
            line = AttemptLine(
                at.isoformat(), Outcome.UNKNOWN.value, None, None, "send", "WorkerLost"
            )
            if line not in record.history:
                record = replace(record, history=record._history_with(line))
        return record

    def merged(
        self, *, made: int, charged: int, doubtful: int, possible_duplicate: bool, replays: int = 0
    ) -> DeliveryRecord:
        """Return the record with at least these counts: a message can be older than the ledger."""
        return replace(
            self,
            made=max(self.made, made),
            charged=max(self.charged, charged),
            doubtful=max(self.doubtful, doubtful),
            possible_duplicate=self.possible_duplicate or possible_duplicate,
            replays=max(self.replays, replays),
        )

    def _history_with(self, line: AttemptLine) -> tuple[AttemptLine, ...]:
        history = (*self.history, line)
        return history[:1] + history[1:][-_LAST_ATTEMPTS:]

    def replayed(self, now: datetime) -> DeliveryRecord:
        """Return the record of a goal that a person sends again: it is new but for its past."""
        return replace(self, enqueued_at=now, charged=0, replays=self.replays + 1, expires_at=None)

    def is_expired(self, now: datetime, max_age_seconds: float) -> bool:
        """Return whether the goal is older than that, or than its sender wanted."""
        too_old = (now - self.enqueued_at).total_seconds() > max_age_seconds
        return too_old or (self.expires_at is not None and now > self.expires_at)


def _moment(text: Any, default: T) -> datetime | T:
    if text is None:
        return default
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _count(value: Any) -> int:
    # To Python a bool is an int, and to Redis it is neither.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a count is a whole number from 0")
    return value


def _unknown(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that another version of this package has set."""
    return {
        name: value
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
        and name not in HEADERS
        and isinstance(value, (str, int, float, bool))
    }

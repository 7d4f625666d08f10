"""The store of dead letters: one JSON document for each in Redis, in the order of their deaths.

Nothing evicts a dead letter but a person. A goal has one letter, which has its delivery id. It is
replaced only by one that says more: of a later replay, or of more attempts. A document that cannot
be read does not stand in the way of the others: it is shown as ``malformed`` with its bytes, and
can be discarded.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import redis
from kombu.utils.json import dumps

from ..delivery.documents import UnreadableDocument, as_stored, fields_of, read_object
from ..delivery.record import AttemptLine, history_of
from ..delivery.scripts import registered
from ..delivery.state import Keys
from ..message import batches

__all__ = ["REASONS", "DeadLetter", "DeadLetterStore", "StoredLetter"]

#: Why a goal became a dead letter.
REASONS = (
    "invalid",
    "rejected",
    "exhausted",
    "expired",
    "unknown",
    "worker_lost",
    "malformed",
    "failed",
)

_PAGE = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A goal that could not be delivered, with all that is needed to understand and replay it.

    ``repr`` leaves out what can hold personal data. All times are ISO 8601 in UTC.

    Attributes:
        delivery_id: the goal's delivery id.
        reason: one of :data:`REASONS`.
        error: what went wrong, in words, without data of the goal.
        error_class: name of the exception's class.
        status: HTTP status of the last attempt, ``None`` without an answer.
        excerpt: up to 2 KiB of the last answer; it can echo personal data.
        attempts: attempts made.
        history: the first of them and the last ten.
        doubtful: attempts that may have counted.
        possible_duplicate: whether it was sent again after an attempt that may have counted.
        payload: the body as it came, with its time where the worker had stamped one.
        on_unknown: the goal's own policy, ``None`` for the setting's.
        enqueued_at: when the goal was enqueued, which is its time where the payload has none.
        first_attempt_at: ``None`` if none was made.
        last_attempt_at: likewise.
        died_at: when the letter was written.
        worker: name of the worker that wrote it.
        sentry_event_id: id of the event that told Sentry of this letter, ``None`` if only its
            number was told, with others of its class; no proof that it arrived.
        replays: how often the goal was replayed before it died this time.
        raw: bytes in base64 of what was malformed, the message or this letter, else ``None``.
        others: headers of the message that another version of this package has set.
        copies: how many messages for this goal came later; they were not sent.
        last_copy_at: when the last of them came.
    """

    delivery_id: str
    reason: str
    error: str = ""
    error_class: str = ""
    status: int | None = None
    excerpt: str = field(default="", repr=False)
    attempts: int = 0
    history: tuple[AttemptLine, ...] = ()
    doubtful: int = 0
    possible_duplicate: bool = False
    payload: Any = field(default=None, repr=False)
    on_unknown: str | None = None
    enqueued_at: str | None = None
    first_attempt_at: str | None = None
    last_attempt_at: str | None = None
    died_at: str | None = None
    worker: str | None = None
    sentry_event_id: str | None = None
    replays: int = 0
    raw: str | None = field(default=None, repr=False)
    others: Mapping[str, Any] = field(default_factory=dict)
    copies: int = 0
    last_copy_at: str | None = None

    @classmethod
    def from_document(cls, document: str, delivery_id: str) -> DeadLetter:
        """Return a letter as it was stored, by this version or a neighbouring one.

        Args:
            document: the letter's JSON.
            delivery_id: under which it is stored.

        Raises:
            UnreadableDocument: if it is no letter.
        """
        given = read_object(document)
        given |= {"delivery_id": delivery_id, "history": history_of(given.get("history"))}
        return cls(**fields_of(cls, given))

    @classmethod
    def of_unreadable(cls, document: str, delivery_id: str, why: str) -> DeadLetter:
        """Return what stands for a stored document that cannot be read, with its bytes.

        Args:
            document: what is stored, undecodable bytes as lone surrogates.
            delivery_id: under which it is stored.
            why: what is wrong with it, without anything of its content.
        """
        return cls(
            delivery_id,
            "malformed",
            error=f"the stored document cannot be read: it {why}; its bytes are in the letter",
            error_class=UnreadableDocument.__name__,
            raw=base64.b64encode(as_stored(document)).decode(),
        )

    def summary(self) -> dict[str, Any]:
        """Return what a listing shows, which holds no answer of the API, but the payload."""
        names = (
            "delivery_id",
            "reason",
            "error",
            "status",
            "attempts",
            "first_attempt_at",
            "last_attempt_at",
            "replays",
            "payload",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it was read.

    Attributes:
        letter: what was read, or what stands for a document that cannot be read.
        document: proves that it is unchanged.
        is_readable: whether it could be read.
    """

    letter: DeadLetter
    document: str = field(repr=False)
    is_readable: bool = True


class DeadLetterStore:
    """Dead letters in Redis; safe to share between threads.

    Args:
        client: of the state's Redis.
        keys: names of its keys.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._put: Callable[..., Any] = registered(client, "put_letter")
        self._remove_unchanged: Callable[..., Any] = registered(client, "remove_letters")
        self._replace_unchanged: Callable[..., Any] = registered(client, "replace_letter")

    def put(self, letter: DeadLetter) -> bool:
        """Write a letter, and return whether it is there; safe to repeat.

        It is not written if its goal is delivered, or has a letter that says more; nor that of a
        malformed message, if anything is known by its id.
        """
        died_at = datetime.fromisoformat(letter.died_at).timestamp() if letter.died_at else 0.0
        name = letter.delivery_id
        said = self._put(
            keys=[self._keys.letters, self._keys.letter_times, self._keys.page(name)],
            args=[
                *(name, _document(letter), died_at, letter.replays, letter.attempts),
                (letter.raw or "") if letter.reason == "malformed" else "",
            ],
        )
        return str(said) == "written"

    def note_copy(self, delivery_id: str) -> None:
        """Write into a letter that another message for its goal came, unless it has changed."""
        stored = self.get(delivery_id)
        if stored is None or not stored.is_readable:
            return
        letter = stored.letter
        noted = replace(
            letter, copies=letter.copies + 1, last_copy_at=datetime.now(UTC).isoformat()
        )
        self._replace_unchanged(
            keys=[self._keys.letters],
            args=[delivery_id, as_stored(stored.document), _document(noted)],
        )

    def note_event(self, letter: DeadLetter, event_id: str) -> None:
        """Write into a letter which Sentry event told of it, unless the letter has changed."""
        told = replace(letter, sentry_event_id=event_id)
        self._replace_unchanged(
            keys=[self._keys.letters],
            args=[letter.delivery_id, _document(letter), _document(told)],
        )

    def get(self, delivery_id: str) -> StoredLetter | None:
        """Return one letter, ``None`` if there is none with this id."""
        document = self._client.hget(self._keys.letters, delivery_id)
        return None if document is None else _stored(str(document), delivery_id)

    def newest(self, limit: int | None = None) -> Iterator[StoredLetter]:
        """Yield letters, the newest first, page by page.

        Args:
            limit: how many at the most; ``None`` for all that were there at the beginning.
        """
        last = -1 if limit is None else limit - 1
        ids = [str(name) for name in self._client.zrevrange(self._keys.letter_times, 0, last)]
        for page in batches(ids, _PAGE):
            documents = self._client.hmget(self._keys.letters, page)
            for delivery_id, document in zip(page, documents, strict=True):
                if document is not None:
                    yield _stored(str(document), delivery_id)

    def remove(self, *stored: StoredLetter) -> int:
        """Remove letters that are still as they were read, and return how many that were."""
        return self._remove(stored, ())

    def discard(self, *stored: StoredLetter) -> int:
        """Remove letters like :meth:`remove`; their goals may be enqueued as new ones.

        That they may have been counted stays known.
        """
        return self._remove(stored, [self._keys.page(one.letter.delivery_id) for one in stored])

    def _remove(self, stored: Sequence[StoredLetter], pages: Sequence[str]) -> int:
        if not stored:
            return 0
        pairs = [
            part for one in stored for part in (one.letter.delivery_id, as_stored(one.document))
        ]
        removed: int = self._remove_unchanged(
            keys=[self._keys.letters, self._keys.letter_times, *pages], args=pairs
        )
        return removed

    def count(self) -> int:
        """Return how many letters there are."""
        return int(self._client.hlen(self._keys.letters))


def _document(letter: DeadLetter) -> str:
    """Write a letter as JSON; a payload is written as it came, by Celery's own JSON."""
    # Not by asdict, which would copy a payload of any depth.
    content = {one.name: getattr(letter, one.name) for one in fields(letter)}
    content["history"] = [asdict(line) for line in letter.history]
    return str(dumps(content, separators=(",", ":")))


def _stored(document: str, delivery_id: str) -> StoredLetter:
    try:
        return StoredLetter(DeadLetter.from_document(document, delivery_id), document)
    except UnreadableDocument as error:
        stand_in = DeadLetter.of_unreadable(document, delivery_id, str(error))
        return StoredLetter(stand_in, document, is_readable=False)

"""Delivery ids of very many goals, at sixteen bytes each."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

__all__ = ["DeliveryIds"]

_BYTES = 16


class DeliveryIds(Sequence[str]):
    """A sequence of delivery ids, which are UUIDs, that takes a sixth of a list's memory.

    It equals any sequence of the same ids.
    """

    def __init__(self) -> None:
        self._packed = bytearray()

    def extend(self, ids: Iterable[str]) -> None:
        """Add ids at the end."""
        self._packed += b"".join(bytes.fromhex(one.replace("-", "")) for one in ids)

    def __len__(self) -> int:
        return len(self._packed) // _BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._at(position) for position in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        return (self._at(position) for position in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} delivery ids>"

    def _at(self, position: int) -> str:
        start = position * _BYTES
        return str(uuid.UUID(bytes=bytes(self._packed[start : start + _BYTES])))

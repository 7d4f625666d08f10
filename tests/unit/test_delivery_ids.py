"""Many delivery ids in little memory."""

from __future__ import annotations

import pickle
import tracemalloc
import uuid

from hypothesis import given
from hypothesis import strategies as st

from ninja_tasks.delivery_ids import DeliveryIds


def packed(ids: list[str]) -> DeliveryIds:
    made = DeliveryIds()
    made.extend(ids[:1])
    made.extend(ids[1:])
    return made


@given(st.lists(st.uuids().map(str), max_size=5), st.integers(-6, 6), st.integers(-6, 6))
def test_they_are_a_sequence_like_a_list(ids: list[str], start: int, end: int) -> None:
    made = packed(ids)
    assert made == ids
    assert list(made) == ids
    assert list(reversed(made)) == ids[::-1]
    assert made[start:end] == ids[start:end]
    assert [made[at] for at in range(-len(ids), len(ids))] == ids + ids
    assert pickle.loads(pickle.dumps(made)) == ids  # noqa: S301 (our own)


def test_other_ids_are_not_equal() -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    assert packed([one]) != [other]
    assert packed([one]) != [one, other]
    assert packed([one]) != one


def test_a_hundred_thousand_take_less_than_two_megabytes() -> None:
    tracemalloc.start()
    made = DeliveryIds()
    for _ in range(100):
        made.extend(str(uuid.uuid4()) for _ in range(1000))
    size, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 100_000
    assert size < 2e6

"""What the numbers of frames say of those that never came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspectd.runtime.sources.frame_ids import MOST_MISSED, FrameIds


def missing(*numbers: int | None, ids: FrameIds | None = None) -> list[int | None]:
    """So many before each frame; None for a pause."""
    ids, steps = ids or FrameIds(), []
    for number in numbers:
        if number is None:
            ids.pause()
        else:
            steps.append(ids.take(number))
    return [step.missing for step in steps]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        # GigE Vision 1.x: from 1 to 65535, and 1 again.
        ((1, 2, 65534, 65535, 1), [0, 0, 65531, 0, 0]),
        ((65534, 1), [None, 1]),
        ((65534, 3), [None, 3]),
        # Where 0 is used it comes after 65535.
        ((0, 1, 65535, 0, 1), [0, 0, 65533, 0, 0]),
        ((0, 1, 65535, 1), [0, 0, 65533, 1]),
        ((0, 65534, 0), [0, 65533, 1]),
        # Steps back that are no counter at its end.
        ((1, 5000, 1), [0, 4998, None]),
        ((1, 5000, 4999), [0, 4998, None]),
        ((70_000, 1), [None, None]),
        ((65535, MOST_MISSED + 1, MOST_MISSED + 3), [None, MOST_MISSED, 1]),
        ((65535, MOST_MISSED + 2, MOST_MISSED + 3), [None, None, 0]),
        # A number again; of one that numbers nothing it says nothing.
        ((7, 8, 8, 9), [6, 0, None, 0]),
        ((0, 0, 0, 0), [0, 0, 0, 0]),
        ((1, 1, 1), [0, 0, 0]),
        # The first of a connection.
        ((3, 4), [2, 0]),
        ((MOST_MISSED + 1,), [MOST_MISSED]),
        ((MOST_MISSED + 2,), [None]),
        # After a pause: counted anew, gone on, or nobody knows.
        ((0, 1, 2, None, 0, 1), [0, 0, 0, 0, 0]),
        ((0, 1, 2, None, 1, 2), [0, 0, 0, 1, 0]),
        ((1, 2, 3, None, 4, 5), [0, 0, 0, 0, 0]),
        ((1, 2, 3, None, 3, 4), [0, 0, 0, 2, 0]),
        ((1, 2, 3, None, 6, 7), [0, 0, 0, None, 0]),
        ((1, None, None, 65535), [0, None]),
        ((0, 0, None, 0, 0), [0, 0, 0, 0]),
        # Once it was seen to count anew with each start it does so again.
        ((0, 1, None, 0, 1, None, 2, 3), [0, 0, 0, 0, 2, 0]),
        ((1, 65535, None, 1, 2, None, 3), [0, 65533, 0, 0, 0]),
    ],
)
def test_what_is_missing_before_each_frame(numbers, expected):
    assert missing(*numbers) == expected


@given(
    st.booleans(),
    st.integers(0, 65535),
    st.lists(st.integers(0, MOST_MISSED // 2), min_size=1, max_size=60),
)
def test_every_frame_that_a_16_bit_counter_skips_is_missed(uses_zero, begin, gaps):
    base = 0 if uses_zero else 1
    size = 65536 - base
    ids = FrameIds()
    ids.take(base)  # what a camera begins with tells whether it uses 0
    at = begin % size
    ids.take(base + at)
    for gap in gaps:
        at += gap + 1
        assert ids.take(base + at % size).missing == gap


def test_a_new_connection_begins_anew():
    ids = FrameIds()
    assert missing(0, 1, 2, ids=ids) == [0, 0, 0]
    ids.connect()
    # It was seen to begin at 0.
    assert missing(1, 2, ids=ids) == [1, 0]


def test_a_damaged_frame_without_its_number_is_the_next_one():
    ids = FrameIds()
    assert missing(1, 2, ids=ids) == [0, 0]
    assert ids.take(0, damaged=True).missing == 0
    assert missing(4, 6, ids=ids) == [0, 1]
    assert not ids.take(7, damaged=True).is_stray
    assert ids.take(7).is_stray

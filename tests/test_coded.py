"""Coded text: the same rows in fewer bytes, and in one form whatever they came as."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from vnotch.coded import ordered

TEXTS = ["a", "b", "c", "d"]


@given(st.lists(st.sampled_from([None, 0, 1, 2, 3]), max_size=12), st.permutations(range(4)))
def test_the_same_rows_are_ordered_alike(codes: list[int | None], order: list[int]) -> None:
    """Whatever the order of a column's texts was, and whichever of them no row has."""
    rows = [None if code is None else TEXTS[code] for code in codes]
    shuffled = pa.DictionaryArray.from_arrays(
        pa.array([None if code is None else order.index(code) for code in codes], pa.int32()),
        pa.array([TEXTS[place] for place in order]),
    )
    found = ordered(shuffled)
    assert found.to_pylist() == rows
    assert found.dictionary.to_pylist() == list(dict.fromkeys(row for row in rows if row is not None))


def test_a_column_that_is_ordered_stays_as_it_is() -> None:
    column = pa.array(["x", "y", "x", "z"]).dictionary_encode()
    assert ordered(column) is column
    for codes in ([1, 0], [0, 0], [0, 2, 1]):  # out of order, a text that no row has, one that comes too early
        other = pa.DictionaryArray.from_arrays(pa.array(np.array(codes, np.int32)), pa.array(TEXTS[: max(codes) + 2]))
        assert ordered(other).to_pylist() == other.to_pylist()
        assert ordered(other).indices.to_pylist()[0] == 0

"""How the time is searched for a page: windows, and where a search ends that finds little."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from vnotch.store.pages import SEQUENCE_MAX, Budget, Position, ended_early, windows


def test_windows_cover_a_range_once_in_both_directions() -> None:
    for descending in (False, True):
        found = list(windows(3, 1000, 10, descending))
        assert sorted(found)[0][0] == 3
        assert sorted(found)[-1][1] == 1000
        assert all(one[1] == two[0] for one, two in pairwise(sorted(found)))
        assert found == sorted(found, reverse=descending)
    assert list(windows(5, 5, 10, False)) == []


def searched(budget: Budget, descending: bool = False) -> tuple[list[tuple[int, int]], Position | None]:
    """The windows of a search that never has enough, and where it ended."""
    search, found = windows(1000, 9000, 100, descending, budget.begin()), []
    while True:
        try:
            found.append(next(search))
        except StopIteration as over:
            return found, over.value


@pytest.mark.parametrize("descending", [False, True])
def test_a_search_without_time_ends_when_it_has_looked_through_what_it_must(descending: bool) -> None:
    found, ended = searched(Budget(least_ms=1000, seconds=0), descending)
    assert sum(high - low for low, high in found) == 1000
    # The next search goes on right behind it: before or after all events of the time where it ended.
    assert ended == ((8000, 0) if descending else (1999, SEQUENCE_MAX))
    assert ended_early(ended)
    assert not ended_early((1999, 7))


def test_a_search_that_has_time_goes_on_to_the_end() -> None:
    found, ended = searched(Budget(least_ms=1, seconds=3600))
    assert (found[-1][1], ended) == (9000, None)


def test_what_must_be_searched_is_searched_however_long_it_takes() -> None:
    search = windows(0, 1000, 10, False, Budget(least_ms=1000, seconds=0).begin())
    ends = []
    for _, high in search:
        time.sleep(0.001)
        ends.append(high)
    assert ends[-1] == 1000

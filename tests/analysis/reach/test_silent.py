"""Words that keep an address and hold nothing."""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.silent import Silent, _apart
from crashext.kernel.access import Words


def words(*values: int) -> Words:
    return np.array(values, np.uint64)


def test_a_range_holds_its_begin_and_not_its_end() -> None:
    silent = Silent(words(0x100, 0x300), words(0x180, 0x308))
    where = words(0xF8, 0x100, 0x178, 0x180, 0x2F8, 0x300, 0x308)
    assert silent.holds(where).tolist() == [False, True, True, False, False, True, False]


def test_nothing_is_silent_where_there_are_no_ranges() -> None:
    assert not Silent(words(), words()).holds(words(0, 8)).any()


def test_ranges_are_sorted_and_empty_ones_go() -> None:
    found = _apart([(words(0x300, 0x200), words(0x308, 0x200)), (words(0x100), words(0x180))])
    assert (found.begin.tolist(), found.end.tolist()) == ([0x100, 0x300], [0x180, 0x308])

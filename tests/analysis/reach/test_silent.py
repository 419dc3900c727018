"""Words that keep an address and hold nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from crashext.analysis.reach.silent import Silent, _apart, _stale_arrays, _starts_of_slabs
from crashext.kernel.access import Words
from crashext.kernel.slab.view import KernelView
from tests.kernel.slabmaker import GENERATIONS, Generation, Maker


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


def view_of(maker: Maker) -> KernelView:
    """As much of a view as is asked."""
    readers = {made.address: maker.reader(made.name) for made in maker.caches}
    view = SimpleNamespace(
        host=maker.host,
        space=maker.space,
        memory=maker.memory,
        caches=maker.read_caches(),
        index=maker.index(),
        reader=lambda cache: readers[cache.address],
    )
    return cast(KernelView, view)


@pytest.mark.parametrize("how", GENERATIONS, ids=lambda g: g.name)
def test_what_array_caches_no_longer_hold_is_silent(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    maker.slab(cache, [])
    objects = cache.allocated()
    at = maker.keep(cache, "shared", objects[:3], stale=objects[3:10])
    begin, end = _stale_arrays(view_of(maker))
    silent = _apart([(begin, end)])
    entries = np.uint64(at + (24 if how.lock else 16) - maker.space.direct.start)
    where = entries + np.arange(11, dtype=np.uint64) * np.uint64(8)
    assert silent.holds(where).tolist() == [False] * 3 + [True] * 7 + [False]


@pytest.mark.parametrize("how", GENERATIONS, ids=lambda g: g.name)
def test_a_struct_slab_elsewhere_holds_no_first_slot(how: Generation) -> None:
    """s_mem of a struct slab in an object of another cache; since 3.13 there is none."""
    maker = Maker(how)
    cache = maker.cache("large", 1088, 7, order=1)
    first = maker.slab(cache, [1], where="off")
    begin, end = _starts_of_slabs(view_of(maker))
    if not how.chained:
        assert not len(begin)
        return
    assert (end - begin).tolist() == [8]
    (word,) = (maker.host.read(int(b) + maker.space.direct.start, 8) for b in begin)
    assert int.from_bytes(word, "little") == first

"""Every slot of every slab and its state, against drgn's walk of each cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from unittest.mock import patch

import drgn
import numpy as np
import pytest
from drgn.helpers.linux import slab as drgn_slab
from drgn.helpers.linux.mm import PageSlab, for_each_page
from drgn.helpers.linux.slab import find_slab_cache, slab_cache_for_each_allocated_object

from crashext.kernel.byframe import ByFrame
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import SlotTable, slot_table
from crashext.progress import silent
from tests.conftest import lab_dump, lab_view
from tests.end_to_end.test_orphans import marked
from tests.kernel.oracle import drgn_program
from tests.lab import read_addresses

CACHES = (
    "kmalloc-32",
    "kmalloc-96",
    "kmalloc-512",
    "task_struct",
    "dentry",
    "filp",
    "vm_area_struct",
)


def allocated(table: SlotTable, cache: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    slots = np.flatnonzero(table.state == State.ALLOCATED)
    return table.addresses(slots[table.caches(slots) == cache])


@pytest.mark.parametrize("name", ["default", "healthy", "nodes-debug"])
def test_allocated_slots_are_drgns_objects(name: str) -> None:
    table, view = marked(name).table, lab_view(name)
    program = drgn_program(name)
    pages: dict[int, list[drgn.Object]] = defaultdict(list)  # drgn would look at all, each time
    for page in for_each_page(program):
        try:
            if PageSlab(page):
                cache = drgn.cast("struct slab *", page).slab_cache.value_()
                pages[cache].append(page)
        except drgn.FaultError:
            continue
    for cache_name in CACHES:
        mine = view.caches.find(cache_name)
        assert mine is not None

        def own(
            _: drgn.Program, of: list[drgn.Object] = pages[mine.address]
        ) -> Iterator[drgn.Object]:
            return iter(of)

        with patch.object(drgn_slab, "for_each_page", own):
            cache_object = find_slab_cache(program, mine.name)
            objects = slab_cache_for_each_allocated_object(cache_object, "void")
            theirs = sorted(o.value_() for o in objects)
        assert allocated(table, view.caches.index(mine)).tolist() == theirs, cache_name


@pytest.mark.parametrize("name", ["default", "nodes-debug"])
def test_every_byte_of_an_object_leads_to_its_slot(name: str) -> None:
    """And no byte of a red zone or of another's metadata does."""
    table = marked(name).table
    slots = np.linspace(0, table.count - 1, 3000).astype(np.int64)
    starts = table.addresses(slots)
    rows = table.rows(slots)
    offsets = starts - np.uint64(table.start)
    length = table.length[rows]
    for at in (np.zeros(len(slots), np.uint64), length // np.uint64(2), length - np.uint64(1)):
        found, within = table.locate(offsets + at)
        assert (found == slots).all()
        assert (within == at).all()
    room = table.size[rows] > length
    if name == "nodes-debug":
        assert room.all()
    after, _ = table.locate(offsets[room] + length[room])
    assert (after == -1).all()
    assert (table.at(starts) == slots).all()
    assert table.at(np.array([0, 1 << 63, 0xFFFFFFFF81000000], np.uint64)).tolist() == [-1] * 3


def test_pages_that_are_missing_make_their_slots_unreadable() -> None:
    whole, view = marked("default").table, lab_view("default")
    present: ByFrame[np.bool_] = ByFrame.filled(len(whole.row_of_page), np.bool_(True))
    lost = np.flatnonzero(whole.row_of_page[:] >= 0)[::11]
    present.set(lost, np.bool_(False))
    table = slot_table(view, present, silent, whole.index)
    unreadable = np.flatnonzero(table.state == State.UNREADABLE)
    # Of the whole slot: its padding may be where the freelist has its pointer.
    rows = table.rows(unreadable)
    first = (table.addresses(unreadable) - table.pad[rows] - np.uint64(table.start)).astype(
        np.int64
    )
    last = first + table.size[rows].astype(np.int64) - 1
    touched = ~present[first >> 12] | ~present[last >> 12]
    wide = (last >> 12) - (first >> 12) > 1
    assert (touched | wide).all()
    rest = np.flatnonzero(table.state != State.UNREADABLE)
    begin = (table.addresses(rest) - np.uint64(table.start)).astype(np.int64)
    assert present[begin >> 12].all()
    assert (table.state[rest] == whole.state[rest]).all()


def test_freed_objects_are_free_and_kept_ones_are_not() -> None:
    table = marked("innocent").table
    for part, state in (("freed", State.FREE), ("freed_kept", State.ALLOCATED)):
        known = np.array(read_addresses(lab_dump("innocent").addresses(part)), np.uint64)
        slots = table.at(known)
        assert (slots >= 0).all()
        assert (table.state[slots] == state).all()

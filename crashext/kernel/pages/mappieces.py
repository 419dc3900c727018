"""Where in physical memory the memory map itself lies, and whose struct pages are there.

A machine of terabytes has a million blocks of it, which lie behind each other for miles: what is
kept are the stretches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Mask, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.byframe import merged
from crashext.kernel.pages.pagetables import page_tables_of, physical, table_format
from crashext.kernel.slab.view import KernelView

Numbers = NDArray[np.int64]
_AT_ONCE = 1 << 16  # blocks whose place is looked up in one go
_SPLIT_AT_ONCE = 1 << 9  # of those that are mapped page by page


@dataclass(frozen=True)
class MapPieces:
    """The memory map in physical memory, ascending."""

    start: Numbers
    """int64[n]: first byte of each piece."""
    end: Numbers
    pfn: Numbers
    """int64[n]: page frame that the first struct page of each piece is of."""
    page_size: int
    """sizeof(struct page)"""
    runs: Numbers
    """int64[m, 2]: page frames [first, end) that any of it is in, ascending and apart."""

    def described(self, offsets: Words) -> Numbers:
        """Page frames whose struct pages lie at physical addresses; -1 outside the memory map."""
        if not len(self.start):
            return np.full(len(offsets), -1, np.int64)
        at, inside = self._pieces(offsets)
        good = (inside >= 0) & (inside < self.end[at] - self.start[at])
        return np.where(good, self.pfn[at] + inside // self.page_size, -1)

    def within(self, offsets: Words) -> Numbers:
        """How far into its struct page each of them is, all of which lie in the memory map."""
        return self._pieces(offsets)[1] % self.page_size

    def _pieces(self, offsets: Words) -> tuple[Numbers, Numbers]:
        """The last piece that begins at each of them or before (else the first), and how far in."""
        place = offsets.astype(np.int64)
        at = np.maximum(np.searchsorted(self.start, place, side="right") - 1, 0)
        return at, place - self.start[at]

    def holds(self, frames: Numbers) -> Mask:
        """Which page frames the memory map lies in: int64[n] -> bool[n]."""
        if not len(self.runs):
            return np.zeros(len(frames), np.bool_)
        at = np.searchsorted(self.runs[:, 0], frames, side="right") - 1
        return np.asarray((at >= 0) & (frames < self.runs[np.maximum(at, 0), 1]), np.bool_)


def map_pieces(view: KernelView) -> MapPieces:
    """Look up where the blocks of the memory map are; none where the page tables are not there."""
    memory, shift = view.memory, view.space.page_shift
    found = [np.zeros((0, 3), np.int64)]
    try:
        for begin in range(0, len(memory.block_maps), _AT_ONCE):
            some = slice(begin, begin + _AT_ONCE)
            start, ok = physical(view.host, view.space, memory.block_maps[some])
            sizes = memory.block_pages[some] * np.uint64(memory.page_size)
            columns = (start, start + sizes, memory.block_pfns[some])
            rows = np.stack([c[ok] for c in columns], axis=1)
            tables, split = _tables(view, memory.block_maps[some][ok], sizes[ok])
            found.append(_stretches(rows[~split], memory.page_size))
            blocks = np.flatnonzero(split)
            for first in range(0, len(blocks), _SPLIT_AT_ONCE):
                few = blocks[first : first + _SPLIT_AT_ONCE]
                maps = memory.block_maps[some][ok][few]
                found.append(_page_by_page(view, maps, rows[few, 2], sizes[ok][few], tables[few]))
    except ReadFault:
        found = found[:1]
    rows = np.concatenate(found)
    rows = rows[np.lexsort((rows[:, 2], rows[:, 0]))]
    start, end, pfn = np.ascontiguousarray(rows.T)
    runs = np.stack([start >> shift, -(-end >> shift)], axis=1)
    return MapPieces(start, end, pfn, memory.page_size, merged(runs))


def _tables(view: KernelView, maps: Words, sizes: Words) -> tuple[Words, Mask]:
    """Page tables that blocks of the memory map are mapped by, of those that lie in one table each
    and are not mapped by larger pages."""
    tables, split = page_tables_of(view.host, view.space, maps)
    bits = np.uint64(2 * view.space.page_shift - 3)  # what one table maps
    return tables, split & (maps >> bits == (maps + sizes - np.uint64(1)) >> bits)


def _page_by_page(
    view: KernelView, maps: Words, pfns: Words, sizes: Words, tables: Words
) -> Numbers:
    """The stretches of blocks that are mapped page by page, as hugetlb_free_vmemmap does it: the
    struct pages of a huge page, most of which are mapped to one page, and the rest elsewhere than
    they were. Of several struct pages in one place the first is noted."""
    page, shift = view.space.page_size, np.uint64(view.space.page_shift)
    form = table_format(view.host)
    if form is None:
        return np.zeros((0, 3), np.int64)
    data, ok = view.host.read_many(tables, page)
    entries = np.ascontiguousarray(data).view("<u8").reshape(len(tables), -1)
    index = np.arange(page // 8, dtype=np.uint64)
    base = maps >> (shift + shift - np.uint64(3)) << (shift + shift - np.uint64(3))
    where = base[:, None] + (index << shift)[None]
    good = (where >= maps[:, None]) & (where < (maps + sizes)[:, None]) & ok[:, None]
    good &= form.present(entries)
    inside = where - maps[:, None]
    struct = np.uint64(view.memory.page_size)
    place = form.physical(entries)[good]
    pfn = (pfns[:, None] + inside // struct)[good]
    order = np.lexsort((pfn, place))
    place, pfn = place[order], pfn[order]
    once = np.append(True, place[1:] != place[:-1])[: len(place)]
    rows = np.stack([place, place + np.uint64(page), pfn], axis=1)[once]
    return _stretches(rows, view.memory.page_size)


def _stretches(blocks: NDArray[np.uint64], page_size: int) -> Numbers:
    """Blocks (start, end, pfn), those that go on where the one before ends in one row."""
    rows = blocks.astype(np.int64)
    start, end, pfn = rows.T
    fresh = np.ones(len(rows), np.bool_)
    goes_on = (start[1:] == end[:-1]) & (pfn[1:] - pfn[:-1] == (end[:-1] - start[:-1]) // page_size)
    fresh[1:] = ~goes_on
    last = np.append(fresh[1:], True)[: len(fresh)]
    return np.stack([start[fresh], end[last], pfn[fresh]], axis=1)

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
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.slab.view import KernelView

Numbers = NDArray[np.int64]
_AT_ONCE = 1 << 16  # blocks whose place is looked up in one go


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
            found.append(_stretches(np.stack([c[ok] for c in columns], axis=1), memory.page_size))
    except ReadFault:
        found = found[:1]
    rows = np.concatenate(found)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    start, end, pfn = np.ascontiguousarray(rows.T)
    runs = np.stack([start >> shift, -(-end >> shift)], axis=1)
    return MapPieces(start, end, pfn, memory.page_size, merged(runs))


def _stretches(blocks: NDArray[np.uint64], page_size: int) -> Numbers:
    """Blocks (start, end, pfn), those that go on where the one before ends in one row."""
    rows = blocks.astype(np.int64)
    start, end, pfn = rows.T
    fresh = np.ones(len(rows), np.bool_)
    goes_on = (start[1:] == end[:-1]) & (pfn[1:] - pfn[:-1] == (end[:-1] - start[:-1]) // page_size)
    fresh[1:] = ~goes_on
    last = np.append(fresh[1:], True)[: len(fresh)]
    return np.stack([start[fresh], end[last], pfn[fresh]], axis=1)

"""Which vmalloc areas and which of the page allocator's pages anything live points at.

The same reading of memory as `references`, for memory that is not slab. An area's own vmap_area
and vm_struct, and the memory map's lists, do not count: they know every area and page there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.blocks import spread
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.scan import (
    KERNEL_USES,
    present_frames,
    readable_frames,
    scan_memory,
)
from crashext.analysis.reach.silent import silent_words
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.addresses import PAGE_SHIFT
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.roots.places import memory_map_frames
from crashext.kernel.slab.objects import State
from crashext.progress import Progress

_BOOKKEEPING = ("vmap_area", "kmem_cache_node", "kmem_cache")
_NOWHERE = (1 << 64) - 1


@dataclass(frozen=True)
class PointedAt:
    """What is pointed at."""

    areas: NDArray[np.bool_]
    """bool[areas]: a live word outside its own bookkeeping points into the area."""
    frames: NDArray[np.bool_]
    """bool[frames]: a live word points into the page's block, or at its struct page, or at that of
    another from which struct pages lead here."""
    kernel: NDArray[np.int64]
    """int64[n]: the page allocator's frames, ascending."""
    by: Words
    """uint64[n]: direct-map offset of one word that points into each; all ones where none does."""

    def word_to(self, frame: int) -> int | None:
        """Direct-map offset of a word that points into a page frame."""
        at = int(np.searchsorted(self.kernel, frame))
        if at >= len(self.kernel) or self.kernel[at] != frame:
            return None
        where = int(self.by[at])
        return None if where == _NOWHERE else where


def find_pointed_at(marked: Reach, progress: Progress) -> PointedAt:
    """One pass over kernel memory."""
    view = marked.view
    present = present_frames(view.host, len(marked.frames.use))
    wanted = readable_frames(view, marked.frames, present, *KERNEL_USES)
    wanted &= ~memory_map_frames(view, len(wanted))
    scanner = _Pointers(marked, wanted)
    scan_memory(view, wanted, present, [scanner], progress, "pointers to areas and pages")
    named = np.zeros(len(scanner.frames), np.bool_)
    named[scanner.kernel] = spread(view, scanner.kernel, scanner.frames[scanner.kernel])
    return PointedAt(scanner.areas, named, scanner.kernel, scanner.by)


class _Pointers:
    """The scanner for pointers to areas and pages, and what it found so far."""

    def __init__(self, marked: Reach, wanted: Mask) -> None:
        self._marked, self._wanted = marked, wanted
        space, areas = marked.view.space, marked.areas
        self._start = areas.start
        self._end = areas.end
        self._vmalloc, self._modules = space.vmalloc, np.uint64(space.image.end)
        self._direct = np.uint64(space.direct.start)
        self._map = space.vmemmap
        self.areas = np.zeros(len(areas.start), np.bool_)
        self.frames = np.zeros(len(marked.frames.use), np.bool_)
        self._kernel = marked.frames.use == FrameUse.KERNEL
        self.kernel = np.flatnonzero(self._kernel)
        self.by = np.full(len(self.kernel), _NOWHERE, np.uint64)
        caches = marked.view.caches.all
        self._lists = np.array([i for i, c in enumerate(caches) if c.name in _BOOKKEEPING])
        self._own = np.sort(_structures(marked))
        self._silent = silent_words(marked.view, marked.table)

    def look(self, offset: int, words: Words) -> None:
        """Take in words that begin at direct-map `offset`."""
        self._areas(offset, words)
        self._pages(offset, words)

    def _areas(self, offset: int, words: Words) -> None:
        if not len(self._start):
            return
        # Modules' areas, and BPF's, lie above the kernel image.
        at = np.flatnonzero(self._vmalloc.holds(words) | (words >= self._modules))
        values = words[at]
        row = np.searchsorted(self._start, values, side="right") - 1
        good = (row >= 0) & (values < self._end[np.maximum(row, 0)])
        at, row = at[good], row[good]
        # A word in the area itself says nothing for it.
        where = np.uint64(offset) + at.astype(np.uint64) * np.uint64(8)
        mine, _ = self._marked.areas.at((where >> np.uint64(PAGE_SHIFT)).astype(np.int64))
        live = self._live(where) & (mine != row)
        self.areas[row[live]] = True

    def _pages(self, offset: int, words: Words) -> None:
        direct = (words - self._direct) >> np.uint64(PAGE_SHIFT)
        at = np.flatnonzero(direct < np.uint64(len(self.frames)))
        self._mark_frames(offset, at, direct[at].astype(np.int64), True)
        at = np.flatnonzero(self._map.holds(words))
        frames, ok = self._marked.view.memory.pfns_of(words[at])
        ok &= frames < np.uint64(len(self.frames))
        self._mark_frames(offset, at[ok], frames[ok].astype(np.int64), False)

    def _mark_frames(
        self, offset: int, at: NDArray[np.intp], frames: NDArray[np.int64], pointer: bool
    ) -> None:
        kernel = self._kernel[frames]
        at, frames = at[kernel], frames[kernel]
        where = np.uint64(offset) + at.astype(np.uint64) * np.uint64(8)
        live = self._live(where) & ((where >> np.uint64(PAGE_SHIFT)).astype(np.int64) != frames)
        self.frames[frames[live]] = True
        if pointer:
            # Of several words keep the lowest: the same on every run.
            index = np.searchsorted(self.kernel, frames[live])
            np.minimum.at(self.by, index, where[live])

    def _live(self, where: Words) -> NDArray[np.bool_]:
        """Words that count: not dead stack, not free slots, not bookkeeping, not unreachable."""
        marked, table = self._marked, self._marked.table
        page = (where >> np.uint64(PAGE_SHIFT)).astype(np.intp)
        in_slab = table.row_of_page[page] >= 0
        slot, _ = table.locate(where)
        at = np.maximum(slot, 0)
        good = (slot >= 0) & (table.state[at] == State.ALLOCATED) & marked.marks.reached[at]
        good &= ~np.isin(table.caches(at), self._lists) & ~self._silent.holds(where)
        if len(self._own):
            start = table.addresses(at)
            near = np.minimum(np.searchsorted(self._own, start), len(self._own) - 1)
            good &= self._own[near] != start
        return self._wanted[page] & np.where(in_slab, good, ~marked.stacks.dead(where))


def _structures(marked: Reach) -> Words:
    """Addresses of the slab objects that are the areas' vm_structs, and of their page arrays."""
    table = marked.table
    pointers = np.concatenate([marked.areas.structure, marked.areas.array])
    slots = table.at(pointers)
    return table.addresses(slots[slots >= 0])

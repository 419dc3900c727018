"""Objects that no pointer leads to, but a struct page pointer or a physical address might.

Network buffers, block I/O and DMA descriptors name memory in these ways. Small physical addresses
look like any number, so they count only where they are much more frequent than chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.blocks import MOST_ALIKE, NO_ADDRESSES
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.scan import present_frames, readable_frames, scan_memory
from crashext.distinct import distinct
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import Slots
from crashext.progress import Progress

_SLAB_LISTS = ("kmem_cache_node", "kmem_cache")
"""Caches whose objects link the struct pages of slabs, which holds no object."""
_CHANCE = 3
"""A physical address counts where it is this many times as frequent as a shifted one."""
_SHIFT = np.uint64(8)


def weakly_held(marked: Reach, slots: Slots, progress: Progress) -> NDArray[np.bool_]:
    """Which of some unreachable objects have such a reference: bool[n]."""
    if not len(slots):
        return np.zeros(0, np.bool_)
    view, table = marked.view, marked.table
    starts = table.addresses(slots) - np.uint64(table.start)
    pages = view.memory.maps_of(starts >> np.uint64(view.space.page_shift))
    present = present_frames(view.host, len(marked.frames.use))
    wanted = readable_frames(view, marked.frames, present, FrameUse.SLAB, FrameUse.KERNEL)
    seen = _WeakReferences(marked, starts, pages, wanted)
    what = "struct page pointers, physical addresses"
    scan_memory(view, wanted, present, [seen], progress, what)
    return seen.result()


class _WeakReferences:
    """The scanner for struct page pointers and physical addresses, and what it found so far."""

    def __init__(
        self, marked: Reach, starts: Words, pages: Words, wanted: ByFrame[np.bool_]
    ) -> None:
        self._marked, self._starts, self._pages = marked, starts, pages
        self._wanted = wanted
        self._physical, self._maps = np.sort(starts), distinct(pages)
        self._shifted = self._physical + _SHIFT
        self._found: dict[str, list[Words]] = {"physical": [], "shifted": [], "page": []}
        view = marked.view
        known = map(view.caches.find, (*_SLAB_LISTS, *NO_ADDRESSES))
        silent = [view.caches.index(c) for c in known if c is not None]
        self._silent = np.array(silent, np.uint16)

    def look(self, offset: int, words: Words) -> list[tuple[str, Words]]:
        """What words that begin at direct-map `offset` name, by which kind of name."""
        result = []
        for name, wanted in (
            ("physical", self._physical),
            ("shifted", self._shifted),
            ("page", self._maps),
        ):
            inside = np.flatnonzero(words - wanted[0] <= wanted[-1] - wanted[0])
            at = np.minimum(np.searchsorted(wanted, words[inside]), len(wanted) - 1)
            hits = inside[wanted[at] == words[inside]]
            if len(hits):
                where = np.uint64(offset) + hits.astype(np.uint64) * np.uint64(8)
                result.append((name, words[hits][self._counts(where, name == "page")]))
        return result

    def take(self, found: list[tuple[str, Words]]) -> None:
        """Keep it."""
        for name, words in found:
            self._found[name].append(words)

    def _counts(self, where: Words, in_objects_only: bool) -> NDArray[np.bool_]:
        """Which words may hold something: those in allocated objects, and, as physical addresses
        are, in pages that a driver shares with its device."""
        table, page = (
            self._marked.table,
            (where >> np.uint64(self._marked.view.space.page_shift)).astype(np.intp),
        )
        source, _ = table.locate(where)
        at = np.maximum(source, 0)
        good = (source >= 0) & (table.state[at] == State.ALLOCATED)
        good &= ~np.isin(table.caches(at), self._silent)
        if not in_objects_only:
            good |= table.row_of_page[page] < 0
        return np.asarray(good & self._wanted[page], np.bool_)

    def result(self) -> NDArray[np.bool_]:
        """Which of the objects were named."""
        found = {
            name: np.concatenate([np.zeros(0, np.uint64), *pieces])
            for name, pieces in self._found.items()
        }
        for name in ("physical", "shifted"):
            values, times = np.unique(found[name], return_counts=True)
            known = values[times <= MOST_ALIKE]
            found[name] = found[name][np.isin(found[name], known)]
        weak = np.isin(self._pages, found["page"])
        if len(found["physical"]) > _CHANCE * (len(found["shifted"]) + 1):
            weak |= np.isin(self._starts, found["physical"])
        return weak

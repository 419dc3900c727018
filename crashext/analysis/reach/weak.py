"""Objects that no pointer leads to, but a struct page pointer or a physical address might.

Network buffers, block I/O and DMA descriptors name memory in these ways. Small physical addresses
look like any number, so they count only where they are much more frequent than chance.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class WeakObjects:
    """Objects that only such a reference leads to, and the words that are one."""

    addresses: Words
    starts: Words
    """uint64[n]: the physical address of each, as direct-map offset."""
    pages: Words
    """uint64[n]: the struct page that each is in."""
    values: Words
    """uint64[m]: what the words say: one of `starts` or of `pages`."""
    at: Words
    """uint64[m]: the direct-map offset of each word."""

    def words_of(self, address: int) -> Words:
        """Where the words are that name one of them; none for any other object."""
        names = np.concatenate([some[self.addresses == address] for some in self._named])
        found: Words = self.at[np.isin(self.values, names)]
        return found

    @property
    def _named(self) -> tuple[Words, Words]:
        return self.starts, self.pages


_NONE = np.zeros(0, np.uint64)


def weakly_held(marked: Reach, slots: Slots, progress: Progress) -> WeakObjects:
    """Those of some unreachable objects that have such a reference."""
    if not len(slots):
        return WeakObjects(_NONE, _NONE, _NONE, _NONE, _NONE)
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
        self._found: dict[str, list[tuple[Words, Words]]]
        self._found = {"physical": [], "shifted": [], "page": []}
        view = marked.view
        known = map(view.caches.find, (*_SLAB_LISTS, *NO_ADDRESSES))
        silent = [view.caches.index(c) for c in known if c is not None]
        self._silent = np.array(silent, np.uint16)

    def look(self, offset: int, words: Words) -> list[tuple[str, Words, Words]]:
        """What words that begin at direct-map `offset` name, by which kind of name, and where."""
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
                kept = self._counts(where, name == "page")
                result.append((name, words[hits][kept], where[kept]))
        return result

    def take(self, found: list[tuple[str, Words, Words]]) -> None:
        """Keep it."""
        for name, words, where in found:
            self._found[name].append((words, where))

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

    def result(self) -> WeakObjects:
        """Which of the objects were named, and by which words."""
        values, at = self._of("page")
        physical, physical_at = _rare(*self._of("physical"))
        by_chance, _ = _rare(*self._of("shifted"))
        weak = np.isin(self._pages, values)
        if len(physical) > _CHANCE * (len(by_chance) + 1):
            weak |= np.isin(self._starts, physical)
            values, at = np.append(values, physical), np.append(at, physical_at)
        starts = self._starts[weak]
        addresses = starts + np.uint64(self._marked.table.start)
        return WeakObjects(addresses, starts, self._pages[weak], values, at)

    def _of(self, kind: str) -> tuple[Words, Words]:
        values, at = zip((_NONE, _NONE), *self._found[kind], strict=True)
        return np.concatenate(values), np.concatenate(at)


def _rare(values: Words, at: Words) -> tuple[Words, Words]:
    """Those that few words say: others are numbers."""
    known, which, times = np.unique(values, return_inverse=True, return_counts=True)
    few = times[which] <= MOST_ALIKE if len(known) else np.zeros(0, np.bool_)
    return values[few], at[few]

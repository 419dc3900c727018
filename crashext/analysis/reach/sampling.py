"""Which caches are judged whole, and which by a sample of their slabs, within a budget of memory.

What can be reached needs few bytes of a slot, what cannot needs more: it is sorted, grouped and
counted. So all caches are judged whole as long as the mark itself has room. Where it shows that
much is lost, the largest of what is lost is judged once more, by a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView

_SLOT_BYTES = 33
"""Of each slot, at the peak (`python -m tests.giant held`): state, kept, reached, via; edges,
one and a half each; and a level of the mark that has most of them in it."""
_ON_DISK_BYTES = 1.6
"""Of each slot, where state, edges, via and levels are in files: reached, and what is seen of them
(`python -m tests.giant "held most"`)."""
_FILE_BYTES = 30
"""Of each slot, in files."""
_SLAB_BYTES = 70
"""Of each slab then: what the index and the table of slots know of it."""
_LOST_BYTES = 76
"""More, of each that cannot be reached (measured 68)."""
_AREA_BYTES = 110
_CACHE_BYTES = 4 << 10
_BASE_BYTES = 290 << 20  # Python, numpy, drgn and what it keeps of a kernel's debug info
_MUCH = 0.25
_FEWEST, _TARGETS = 1 << 13, 1 << 15
"""Slots of a sampled cache: as many as there is room for in so much of what is left."""
_OF_SAMPLES = 0.25
_PIECE = 1 << 18


@dataclass(frozen=True)
class Plan:
    """What fits into `budget` bytes."""

    whole: SlabIndex
    budget: int
    areas: int
    caches: int
    on_disk: bool = False
    """Edges and so on are in files."""

    @property
    def _room(self) -> int:
        base = _BASE_BYTES + self.areas * _AREA_BYTES + self.caches * _CACHE_BYTES
        return max(self.budget - base, 1 << 20)

    def more(self, slots: int) -> int:
        """How many slots there is room for, beside so many."""
        return max(0, self._room // _SLOT_BYTES - slots)

    def file_bytes(self, giants: tuple[int, ...]) -> int:
        """Bytes of files that are needed where these caches are sampled."""
        judged = ~np.isin(self.whole.cache, np.array(giants, np.uint16))
        return int(self.whole.objects[judged].sum(dtype=np.int64)) * _FILE_BYTES

    def targets(self, giants: int) -> int:
        """How many slots to judge of each of so many sampled caches."""
        room = _OF_SAMPLES * self._room / (_SLOT_BYTES + _LOST_BYTES)
        return min(_TARGETS, max(_FEWEST, int(room / max(1, giants))))

    def giants(self, lost: NDArray[np.int64] | None = None) -> tuple[int, ...]:
        """Caches to sample, largest first, so that the rest fits.

        `lost` says how many slots of each cache cannot be reached, where that is known.
        """
        index = self.whole
        each, slab = (_ON_DISK_BYTES, _SLAB_BYTES) if self.on_disk else (_SLOT_BYTES, 0)
        slots = np.zeros(max(self.caches, int(index.cache.max(initial=0)) + 1))
        for begin in range(0, len(index.cache), _PIECE):
            some = slice(begin, begin + _PIECE)
            cost = index.objects[some] * np.float64(each) + slab
            slots += np.bincount(index.cache[some], cost, len(slots))
        if lost is not None:
            slots[: len(lost)] += lost[: len(slots)] * _LOST_BYTES
        room = self._room
        giants: list[int] = list(index.crowds)
        slots[giants] = 0
        for cache in np.argsort(-slots).tolist():
            if slots.sum() <= room:
                break
            giants.append(cache)
            slots[cache] = 0
        return tuple(giants)


def lost_slots(table: SlotTable, reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many allocated slots of each cache are not reached: int64[caches]."""
    found = np.zeros(int(table.index.cache.max(initial=0)) + 1, np.int64)
    for slots in unreached(table, reached):
        found += np.bincount(table.caches(slots), minlength=len(found))
    return found


def mostly_lost(
    index: SlabIndex, table: SlotTable, reached: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """All slots, in the `index`, of caches of which much in the table is lost, by its slabs;
    how much of the others is, so few slabs do not tell: int64[caches]."""
    lost = lost_slots(table, reached)
    seen, there = (
        np.bincount(some.cache, weights=some.objects, minlength=len(lost))[: len(lost)]
        for some in (table.index, index)
    )
    return np.asarray(np.where(lost >= _MUCH * seen, there, 0), np.int64)


def unreached(table: SlotTable, reached: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Allocated slots that are not reached, ascending, some at a time: there may be millions."""
    for begin in range(0, table.count, _PIECE):
        some = slice(begin, min(begin + _PIECE, table.count))
        lost = (table.state[some] == State.ALLOCATED) > reached[some]
        yield np.flatnonzero(lost) + begin
        table.store.release()


def sampled_rows(
    view: KernelView,
    index: SlabIndex,
    giants: tuple[int, ...],
    targets: int,
    generator: Callable[[str], np.random.Generator],
) -> NDArray[np.int64]:
    """Rows of the index to judge: all but most slabs of giant caches, of which so many slots are
    enough."""
    keep = ~np.isin(index.cache, np.array(giants, np.uint16))
    for cache in giants:
        rows = generator(view.caches.all[cache].name).permutation(index.rows_of(cache))
        slots = np.cumsum(index.objects[rows].astype(np.int64))
        keep[rows[: int(np.searchsorted(slots, targets)) + 1]] = True
    return np.flatnonzero(keep)


def subset(index: SlabIndex, rows: NDArray[np.int64]) -> SlabIndex:
    """The index of some of the slabs."""
    return replace(
        index,
        address=index.address[rows],
        page=index.page[rows],
        pages=index.pages[rows],
        cache=index.cache[rows],
        inuse=index.inuse[rows],
        objects=index.objects[rows],
    )

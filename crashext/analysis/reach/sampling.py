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
_LOST_BYTES = 76
"""More, of each that cannot be reached (measured 68)."""
_AREA_BYTES = 110
_CACHE_BYTES = 4 << 10
_BASE_BYTES = 300 << 20  # Python, numpy, drgn and what it keeps of a kernel's debug info
_TARGETS = 8192
"""Slots of a sampled cache."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What fits into `budget` bytes."""

    whole: SlabIndex
    budget: int
    areas: int
    caches: int

    @property
    def _room(self) -> int:
        base = _BASE_BYTES + self.areas * _AREA_BYTES + self.caches * _CACHE_BYTES
        return max(self.budget - base, 1 << 20)

    def more(self, slots: int) -> int:
        """How many slots there is room for, beside so many."""
        return max(0, self._room // _SLOT_BYTES - slots)

    def giants(self, lost: NDArray[np.int64] | None = None) -> tuple[int, ...]:
        """Caches to sample, largest first, so that the rest fits.

        `lost` says how many slots of each cache cannot be reached, where that is known.
        """
        index = self.whole
        slots = np.bincount(index.cache, weights=index.objects, minlength=1) * _SLOT_BYTES
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


def unreached(table: SlotTable, reached: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Allocated slots that are not reached, ascending, some at a time: there may be millions."""
    for begin in range(0, table.count, _PIECE):
        some = slice(begin, min(begin + _PIECE, table.count))
        lost = (table.state[some] == State.ALLOCATED) > reached[some]
        yield np.flatnonzero(lost) + begin


def sampled_rows(
    view: KernelView,
    index: SlabIndex,
    giants: tuple[int, ...],
    generator: Callable[[str], np.random.Generator],
) -> NDArray[np.int64]:
    """Rows of the index to judge: all but most slabs of giant caches."""
    keep = ~np.isin(index.cache, np.array(giants, np.uint16))
    for cache in giants:
        rows = generator(view.caches.all[cache].name).permutation(index.rows_of(cache))
        slots = np.cumsum(index.objects[rows].astype(np.int64))
        keep[rows[: int(np.searchsorted(slots, _TARGETS)) + 1]] = True
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

"""The offline kmemleak: which objects of a dump can be reached, from where, and which cannot.

Roots are all words that the kernel uses outside slab objects: variables, per-CPU memory, live
parts of stacks, registers, page-allocator and vmalloc memory. The model is Solaris'
``::findleaks``; the pitfalls are those of kmemleak (mm/kmemleak.c).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks, mark
from crashext.analysis.reach.references import (
    BOOKKEEPING,
    References,
    find_references,
)
from crashext.analysis.reach.scan import present_frames
from crashext.analysis.settings import MEMORY_BUDGET
from crashext.kernel.pages.areas import Areas, read_areas
from crashext.kernel.pages.frames import Frames, frames
from crashext.kernel.roots.places import Places
from crashext.kernel.roots.stacks import Stacks, read_stacks
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.kernel.slab.slots import Slots, SlotTable, slot_table
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

_SLOT_BYTES = 7 + 8 * 1.5
"""Of each slot: state, kept, reached, via; and edges, one and a half each (measured 1.2 to 1.6)."""
_BASE_BYTES = 300 << 20  # Python, numpy, drgn with a kernel's debug info
_PIECE = 1 << 20
_GIANT_TARGETS = 8192
_UPWARDS = 2  # passes that follow referrers outside the sample


class Class(enum.IntEnum):
    """What reachability says of one object."""

    NOT_JUDGED = 0
    """Free, unreadable, or in a slab whose freelist is broken."""
    HELD = 1
    ORPHAN = 2
    """No object or root points at it."""
    STRUCTURE = 3
    """Only objects that cannot be reached themselves point at it."""
    WEAK = 4
    """Not reachable by pointers, but a struct page pointer or a physical address names it."""


@dataclass(frozen=True)
class Reach:
    """A marked kernel."""

    view: KernelView
    table: SlotTable
    frames: Frames
    areas: Areas
    stacks: Stacks
    references: References
    marks: Marks
    pointed: NDArray[np.bool_]
    """bool[slots]: an unreachable object points at this one."""
    giants: tuple[int, ...]
    """Indices of caches of which only some slabs are in `table`, because of the memory budget."""
    unsure: NDArray[np.bool_]
    """bool[slots]: reached, but only through objects outside that sample: these may themselves be
    held, or be part of a leaked structure."""
    doubtful: NDArray[np.bool_]
    """bool[slots]: those of them that only slabs with free slots point at: what points there may
    be free itself."""
    whole: SlabIndex
    """Every slab there is."""
    drawn: NDArray[np.int64]
    """Rows of it that were drawn at random. More are in `table` where objects were followed, but
    those are no sample of their cache."""

    def scale(self, cache: int) -> float:
        """How many objects of a cache one that is in `table` stands for."""
        if cache not in self.giants:
            return 1.0
        seen = int(self.table.index.objects[self.table.index.rows_of(cache)].sum())
        return int(self.whole.objects[self.whole.rows_of(cache)].sum()) / max(1, seen)

    @property
    def places(self) -> Places:
        return Places(self.view, self.frames, self.areas, self.stacks)

    def classes(self, slots: Slots) -> NDArray[np.uint8]:
        """`Class` of each slot; -1 is not judged."""
        at = np.maximum(slots, 0)
        judged = (slots >= 0) & (self.table.state[at] == State.ALLOCATED)
        held = self.marks.reached[at]
        result = np.where(self.pointed[at], Class.STRUCTURE, Class.ORPHAN).astype(np.uint8)
        result[held] = Class.HELD
        result[~judged] = Class.NOT_JUDGED
        return result

    def unreachable(self) -> Slots:
        """Every unreachable object: int64[n], ascending."""
        lost = (self.table.state == State.ALLOCATED) & ~self.marks.reached
        return np.flatnonzero(lost)


def reach(
    view: KernelView,
    progress: Progress,
    generator: Callable[[str], np.random.Generator],
    budget: int = MEMORY_BUDGET,
) -> Reach:
    """Mark everything. Scans the whole memory map first, if that was not done.

    `generator` gives the random numbers for each cache: the same that draw its sample, so that
    the slabs chosen there are among those judged here.

    Where all slots would need more than `budget` bytes, the largest caches are sampled by slabs,
    and objects outside the sample count as roots; those that hold a sampled object are followed
    upwards a few times.
    """
    whole = complete_index(view, progress)
    found = frames(view.host, view.memory, view.space, progress)
    present = present_frames(view.host, len(found.use))
    areas = read_areas(view.host, view.memory)
    giants = _giants(whole, budget)
    chosen = _sampled_rows(view, whole, giants, generator)
    drawn = chosen
    index = _subset(whole, chosen) if giants else whole
    for attempt in range(_UPWARDS + 1):
        table = slot_table(view, present, progress, index)
        stacks = read_stacks(view, table, areas)
        references = find_references(view, table, found, stacks, present, progress)
        marks, unsure, doubtful = _marked(view, table, whole, giants, references)
        more = _referrers(view, table, whole, giants, references, marks)
        if attempt == _UPWARDS or not len(np.setdiff1d(more, chosen)):
            break
        chosen = np.union1d(chosen, more)
        index = _subset(whole, chosen)
    _spare_bookkeeping(view, table, marks)
    pointed = np.zeros(table.count, np.bool_)
    for begin in range(0, len(references.source), _PIECE):
        some = slice(begin, begin + _PIECE)
        pointed[references.target[some][~marks.reached[references.source[some]]]] = True
    return Reach(
        view=view,
        table=table,
        frames=found,
        areas=areas,
        stacks=stacks,
        references=references,
        marks=marks,
        pointed=pointed,
        giants=giants,
        unsure=unsure,
        doubtful=doubtful,
        whole=whole,
        drawn=drawn,
    )


def _marked(
    view: KernelView,
    table: SlotTable,
    whole: SlabIndex,
    giants: tuple[int, ...],
    references: References,
) -> tuple[Marks, NDArray[np.bool_], NDArray[np.bool_]]:
    """The marks, what only objects outside a sample lead to, and what only slots there lead to
    that may be free: bool[slots]."""
    marks = Marks(table.count)
    roots = references.root_target
    row = np.full(len(roots), -1, np.int64)
    if giants:
        where = np.uint64(view.space.direct.start) + references.root_at
        row = whole.locate(where, view.caches)
    full = whole.inuse[row] == whole.objects[row]
    mark(marks, references.source, references.target, roots[row < 0])
    _from_registers(view, table, references, marks)
    certain = marks.reached.copy()
    mark(marks, references.source, references.target, roots[(row >= 0) & full])
    allocated = marks.reached.copy()
    mark(marks, references.source, references.target, roots[(row >= 0) & ~full])
    return marks, marks.reached & ~certain, marks.reached & ~allocated


def complete_index(view: KernelView, progress: Progress) -> SlabIndex:
    """The index of every slab there is."""
    if not view.scanned or not view.index.complete:
        view.scan({}, 0, progress, budget=1 << 62)
    return view.index


def _giants(index: SlabIndex, budget: int) -> tuple[int, ...]:
    """Caches to sample, largest first, so that the rest fits the budget."""
    slots = np.bincount(index.cache, weights=index.objects, minlength=1)
    room = max(budget - _BASE_BYTES, 1 << 20) / _SLOT_BYTES
    giants: list[int] = []
    for cache in np.argsort(-slots).tolist():
        if slots.sum() <= room:
            break
        giants.append(cache)
        slots[cache] = 0
    return tuple(giants)


def _sampled_rows(
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
        keep[rows[: int(np.searchsorted(slots, _GIANT_TARGETS)) + 1]] = True
    return np.flatnonzero(keep)


def _subset(index: SlabIndex, rows: NDArray[np.int64]) -> SlabIndex:
    return replace(
        index,
        address=index.address[rows],
        cache=index.cache[rows],
        inuse=index.inuse[rows],
        objects=index.objects[rows],
    )


def _referrers(
    view: KernelView,
    table: SlotTable,
    whole: SlabIndex,
    giants: tuple[int, ...],
    references: References,
    marks: Marks,
) -> NDArray[np.int64]:
    """Rows of slabs outside the table that hold objects of sampled giant caches."""
    if not giants:
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(marks.via[references.root_target] == -1)
    of_giant = np.isin(
        table.caches(references.root_target[starts].astype(np.int64)), np.array(giants, np.uint16)
    )
    where = np.uint64(view.space.direct.start) + references.root_at[starts[of_giant]]
    rows = whole.locate(where, view.caches)
    return np.unique(rows[rows >= 0])


def _spare_bookkeeping(view: KernelView, table: SlotTable, marks: Marks) -> None:
    """kmemleak's own records are in a tree of their own, whose pointers count for nothing."""
    for number, cache in enumerate(view.caches.all):
        if cache.name in BOOKKEEPING:
            for row in table.index.rows_of(number).tolist():
                marks.reached[table.first[row] : table.first[row + 1]] = True


def _from_registers(
    view: KernelView, table: SlotTable, references: References, marks: Marks
) -> None:
    values = [value for registers in view.host.registers() for value in registers]
    slots = table.at(np.array(values, np.uint64))
    slots = slots[slots >= 0]
    slots = slots[table.state[slots] == State.ALLOCATED].astype(np.int32)
    mark(marks, references.source, references.target, slots)

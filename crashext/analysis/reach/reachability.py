"""The offline kmemleak: which objects of a dump can be reached, from where, and which cannot.

Roots are all words that the kernel uses outside slab objects: variables, per-CPU memory, live
parts of stacks, registers, page-allocator and vmalloc memory. The model is Solaris'
``::findleaks``; the pitfalls are those of kmemleak (mm/kmemleak.c).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.apart import hide, lost_beside, search_unread, spare
from crashext.analysis.reach.blocks import PhysicalAddresses, WeaklyHeld, rest_of_split
from crashext.analysis.reach.mark import Marks, mark, mark_pages
from crashext.analysis.reach.nodes import Nodes, nodes
from crashext.analysis.reach.oldstacks import drop_old_stacks
from crashext.analysis.reach.references import References, find_references
from crashext.analysis.reach.sampling import (
    Plan,
    lost_slots,
    mostly_lost,
    sampled_rows,
    subset,
    unreached,
)
from crashext.analysis.reach.scan import Scanner, present_frames
from crashext.analysis.reach.sources import BOOKKEEPING
from crashext.analysis.reach.unread import UnreadLeads, unread_in_use
from crashext.analysis.settings import MEMORY_BUDGET
from crashext.distinct import distinct, union, without
from crashext.growing import give_back
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.frames import Frames
from crashext.kernel.pages.leftover import Pages, blocks, read_pages
from crashext.kernel.pages.mappieces import map_pieces
from crashext.kernel.pages.shifted import shifted_tables
from crashext.kernel.roots.places import Places
from crashext.kernel.roots.stacks import Stacks, read_stacks
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex, joined
from crashext.kernel.slab.slots import Slots, SlotTable, slot_table
from crashext.kernel.slab.usage import usage
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.store import FileStore, NoRoom, Store, folder, free

_PIECE = 1 << 20
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
    nodes: Nodes
    frames: Frames
    areas: Areas
    stacks: Stacks
    references: References
    marks: Marks
    pointed: NDArray[np.bool_]
    """bool[nodes]: an unreachable node points at this one."""
    giants: tuple[int, ...]
    """Indices of caches of which only some slabs are in `table`, because of the memory budget."""
    weak: WeaklyHeld
    """They count as reached."""
    split_blocks: NDArray[np.bool_]
    """bool[blocks]: no pointer leads to them, but they may be the rest of a reached allocation.
    They count as reached."""
    unsure: NDArray[np.bool_]
    """bool[nodes]: reached, but only through objects outside that sample: these may themselves be
    held, or be part of a leaked structure."""
    doubtful: NDArray[np.bool_]
    """bool[nodes]: those of them that only slabs with free slots point at: what points there may
    be free itself."""
    whole: SlabIndex
    """Every slab there is."""
    drawn: NDArray[np.int64]
    """Rows of it that were drawn at random. More are in `table` where objects were followed, but
    those are no sample of their cache."""
    spared: tuple[str, ...] = ()
    """What slabs that were not read may hold, and is not judged: caches, areas, pages."""
    searched: bool = False
    """Those slabs were searched for pointers to what would be unreachable."""
    followed: bool = False
    """Whatever is in use of those slabs was read: by pointers, from what was drawn."""
    short: int = 0
    """Bytes on disk that judging more would take, where there is no room for it."""

    def scale(self, cache: int) -> float:
        """How many objects of a cache one that is in `table` stands for."""
        if cache not in self.giants:
            return 1.0
        seen = int(self.table.index.objects[self.table.index.rows_of(cache)].sum())
        crowd = self.whole.crowds.get(cache)
        if crowd is not None:
            return crowd.objects / max(1, seen)
        return int(self.whole.objects[self.whole.rows_of(cache)].sum()) / max(1, seen)

    @cached_property
    def _allocated(self) -> dict[int, int]:
        return {}

    def allocated(self, cache: SlabCache) -> int:
        """Allocated objects of a cache, those that are not in `table` too."""
        if cache.address not in self._allocated:
            self._allocated[cache.address] = usage(self.view, cache, self.whole).allocated
        return self._allocated[cache.address]

    @cached_property
    def places(self) -> Places:
        return Places(self.view, self.frames, self.areas, self.stacks, self.nodes.map)

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
        return np.concatenate([np.zeros(0, np.int64), *unreached(self.table, self.marks.reached)])

    def areas_reached(self) -> NDArray[np.bool_]:
        """bool[areas]: those that are reached, and those that are no nodes."""
        reached = np.ones(len(self.areas.start), np.bool_)
        reached[self.nodes.area_row] = self.marks.reached[
            self.nodes.first_area : self.nodes.first_block
        ]
        return reached

    def blocks_reached(self) -> NDArray[np.bool_]:
        """bool[blocks]: by whatever holds them."""
        return self.marks.reached[self.nodes.first_block :]

    def unreachable_nodes(self) -> NDArray[np.int64]:
        """Every unreachable node, areas and blocks of pages too: int64[n], ascending."""
        beyond = np.flatnonzero(~self.marks.reached[self.table.count :]) + self.table.count
        return np.concatenate([self.unreachable(), beyond])


def reach(
    view: KernelView,
    progress: Progress,
    generator: Callable[[str], np.random.Generator],
    budget: int = MEMORY_BUDGET,
    pages: Pages | None = None,
) -> Reach:
    """Mark everything. Scans the whole memory map first, if that was not done.

    `pages` are what `read_pages` gives, where somebody has read them already.

    `generator` gives the random numbers for each cache: the same that draw its sample, so that
    the slabs chosen there are among those judged here.

    Where that would need more than `budget` bytes, the largest caches are sampled by slabs,
    and objects outside the sample count as roots; those that hold a sampled object are followed
    upwards a few times.
    """
    pages = pages or read_pages(view, progress)
    whole = complete_index(view, progress)
    with suppress(NoRoom):  # somebody else has filled the disk
        return _reach(view, progress, generator, budget, whole, pages, free(folder()))
    return _reach(view, progress, generator, budget, whole, pages, 0)


def _reach(
    view: KernelView,
    progress: Progress,
    generator: Callable[[str], np.random.Generator],
    budget: int,
    whole: SlabIndex,
    pages: Pages,
    room_on_disk: int,
) -> Reach:
    """The same with so many bytes for files. Raises `NoRoom` where there are fewer."""
    found, areas, rest = pages.frames, pages.areas, pages.rest
    present = present_frames(view.host, len(found.use))
    lies = map_pieces(view)
    left = rest.frames[~lies.holds(rest.frames)]
    page_blocks = blocks(view, left, generator("page blocks"))
    plan = Plan(whole, budget, len(areas.start), len(view.caches.all))
    giants, short = plan.giants(), 0

    def draw(giants: tuple[int, ...]) -> NDArray[np.int64]:
        return sampled_rows(view, whole, giants, plan.targets(len(giants)), generator)

    chosen = drawn = draw(giants)
    attempt, beyond = 0, subset(whole, np.zeros(0, np.int64))
    while True:
        give_back()
        index = joined(subset(whole, chosen), beyond) if giants else whole
        store = FileStore(folder()) if plan.on_disk else Store()
        table = slot_table(view, present, progress, index, store)
        stacks = read_stacks(view, table, areas)
        graph = nodes(view, table, found, areas, stacks, page_blocks, lies)
        physical = PhysicalAddresses(graph, found, rest.table_frames, present)
        along: list[Scanner[Any]] = [physical]
        if whole.crowds:
            along.append(leads := UnreadLeads(graph, found))
        references = find_references(graph, found, stacks, present, progress, along)
        drop_old_stacks(graph, references, stacks)
        give_back()
        marks, unsure, doubtful = _marked(graph, whole, giants, references)
        more = giants if attempt else plan.giants(lost_slots(table, marks.reached))
        if len(more) > len(giants):
            # What is lost needs more room than is left: a sample of it does.
            giants = more
            chosen = drawn = draw(giants)
            del table, graph, physical, along, references, marks, unsure, doubtful, index
            continue
        if not plan.on_disk and not attempt and len(giants) > len(whole.crowds):
            # Where it is not lost, it may have room on disk.
            on_disk = replace(plan, on_disk=True)
            less = on_disk.giants(mostly_lost(whole, table, marks.reached))
            needed = on_disk.file_bytes(less)
            fits = set(less) == set(whole.crowds)  # else it costs a pass, and a sample remains
            if fits and needed <= room_on_disk:
                plan, giants = on_disk, less
                chosen = drawn = draw(giants)
                del table, graph, physical, along, references, marks, unsure, doubtful, index
                continue
            short = needed if fits else 0
        attempt += 1
        holders = _referrers(view, table, whole, giants, references, marks)
        room = plan.more(table.count)
        entered = unread_in_use(leads, marks, beyond, room) if whole.crowds else beyond
        followed = entered is not None and len(entered.address) == len(beyond.address)
        more_to_read = len(without(holders, chosen)) or not (followed or entered is None)
        if attempt > _UPWARDS or not more_to_read:
            break
        chosen = union(chosen, holders)
        beyond = beyond if entered is None else entered
    give_back()
    _spare_bookkeeping(view, table, marks)
    spared = spare(graph, whole, references, marks, followed)
    names = spared.names
    split = rest_of_split(graph, marks)
    _mark_blocks(graph, references, marks, split)
    weak = physical.held(marks)
    _mark_blocks(graph, references, marks, weak.blocks)
    held = None
    if whole.crowds and not followed and lost_beside(graph, whole, marks):
        held = search_unread(graph, found, stacks, present, progress)
        if held is None:
            names += hide(graph, whole, marks, unsure, doubtful)
    if held is not None:
        before = marks.reached.copy()
        mark(marks, references.source, references.target, held[0][~held[1]])
        mark_pages(marks, references, held[0][held[1]])
        # Who points there may be free, or unreachable itself.
        unsure |= marks.reached & ~before
        doubtful |= marks.reached & ~before
    pointed = np.zeros(graph.count, np.bool_)
    if spared.linked is not None:
        pointed[: table.count] = spared.linked
    for begin in range(0, len(references.source), _PIECE):
        some = slice(begin, begin + _PIECE)
        pointed[references.target[some][~marks.reached[references.source[some]]]] = True
        store.release()
    return Reach(
        view=view,
        table=table,
        nodes=graph,
        frames=found,
        areas=areas,
        stacks=stacks,
        references=references,
        marks=marks,
        pointed=pointed,
        giants=giants,
        weak=weak,
        split_blocks=split,
        unsure=unsure,
        doubtful=doubtful,
        whole=whole,
        drawn=drawn,
        spared=names,
        searched=held is not None,
        followed=followed,
        short=short,
    )


def _marked(
    graph: Nodes,
    whole: SlabIndex,
    giants: tuple[int, ...],
    references: References,
) -> tuple[Marks, NDArray[np.bool_], NDArray[np.bool_]]:
    """The marks, what only objects outside a sample lead to, and what only slots there lead to
    that may be free: bool[nodes]."""
    view = graph.view
    marks = Marks(graph.count, graph.table.store)
    roots, page = references.root_target, references.root_page
    row = np.full(len(roots), -1, np.int64)
    if giants:
        where = np.uint64(view.space.direct.start) + references.root_at
        row = whole.locate(where, view.caches)
    full = whole.inuse[row] == whole.objects[row]
    sure = row < 0
    mark(marks, references.source, references.target, roots[sure & ~page])
    _from_elsewhere(graph, references, marks)
    mark_pages(marks, references, roots[sure & page])
    if references.coverage.missing_slab:
        # Who knows of a block may be in a page that is missing: it may be a module's variables.
        blocks = np.arange(graph.first_block, graph.count, dtype=np.int32)
        mark(marks, references.source, references.target, blocks)
    if not giants:
        # Nobody is outside the sample. Zeros that nobody writes to take no memory.
        nobody = np.zeros((2, graph.count), np.bool_)
        return marks, nobody[0], nobody[1]
    certain = marks.reached.copy()
    mark(marks, references.source, references.target, roots[~sure & full])
    mark_pages(marks, references, np.zeros(0, np.int32))
    allocated = marks.reached.copy()
    mark(marks, references.source, references.target, roots[~sure & ~full])
    mark_pages(marks, references, np.zeros(0, np.int32))
    return marks, marks.reached & ~certain, marks.reached & ~allocated


def complete_index(view: KernelView, progress: Progress) -> SlabIndex:
    """The index of every slab there is."""
    if not view.scanned or not view.index.complete:
        view.scan({}, 0, progress, budget=1 << 62)
    return view.index


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
    starts = starts[references.root_target[starts] < table.count]
    of_giant = np.isin(
        table.caches(references.root_target[starts].astype(np.int64)), np.array(giants, np.uint16)
    )
    where = np.uint64(view.space.direct.start) + references.root_at[starts[of_giant]]
    rows = whole.locate(where, view.caches)
    return distinct(rows[rows >= 0])


def _mark_blocks(
    graph: Nodes, references: References, marks: Marks, which: NDArray[np.bool_]
) -> None:
    start = graph.first_block + np.flatnonzero(which)
    mark_pages(marks, references, start.astype(np.int32))


def _spare_bookkeeping(view: KernelView, table: SlotTable, marks: Marks) -> None:
    """kmemleak's own records are in a tree of their own, whose pointers count for nothing."""
    for number, cache in enumerate(view.caches.all):
        if cache.name in BOOKKEEPING:
            for row in table.index.rows_of(number).tolist():
                marks.reached[table.first[row] : table.first[row + 1]] = True


def _from_elsewhere(graph: Nodes, references: References, marks: Marks) -> None:
    """Mark what addresses lead to that are in no word of memory: registers, and shifted ones."""
    host, memory = graph.view.host, graph.view.memory
    values = [value for registers in host.registers() for value in registers]
    tables = shifted_tables(host, memory.block_pfns)
    found = graph.pointed_at(np.concatenate([np.array(values, np.uint64), tables]))
    found = found[found >= 0]
    free = found < graph.first_area
    free[free] = graph.table.state[found[free]] != State.ALLOCATED
    mark(marks, references.source, references.target, found[~free].astype(np.int32))

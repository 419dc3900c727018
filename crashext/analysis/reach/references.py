"""Every word of kernel memory that points at a node: a slab object, an area, a block of pages.

A word in an allocated object, an area or a block is an edge from it; a word anywhere else that the
kernel uses is a root. Interior pointers count. Free pages, user pages, free slots, pads, metadata
of slabs and the dead parts of stacks point at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import Edges, placed
from crashext.analysis.reach.leads import Leads
from crashext.analysis.reach.nodes import Nodes, Nodes32
from crashext.analysis.reach.scan import KERNEL_USES, Scanner, readable_frames, scan_memory
from crashext.analysis.reach.silent import silent_words
from crashext.analysis.reach.tasklinks import links_of_tasks
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.counters.rcu import cached_pages
from crashext.kernel.origin.slabexts import vector_member
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.objects import State
from crashext.progress import Progress

_ROOTS_KEPT = 4  # words that are remembered for each object they point at
_ALLOCATED = (FrameUse.SLAB, FrameUse.KERNEL, FrameUse.UNKNOWN)
_MAYBE_SLAB = (FrameUse.SLAB, FrameUse.UNKNOWN)
BOOKKEEPING = ("kmemleak_object", "kmemleak_scan_area")
"""Caches whose objects point at every object there is, for reasons of their own."""
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Coverage:
    """How much of kernel memory the pass saw."""

    present: int
    """Page frames of kernel memory that were read."""
    missing: int
    """Page frames that the kernel allocated and that are not in the dump."""
    missing_slab: int
    """Those of them that belong to slabs, or may."""
    bytes_read: int
    unknown: int = 0
    """Those of them whose struct pages are missing too."""


@dataclass(frozen=True)
class References:
    """Who points at nodes, which are numbered as in `Nodes`."""

    source: NDArray[np.int32]
    """int32[edges], ascending: the node that holds the word."""
    target: NDArray[np.int32]
    """int32[edges]: the node that the word points into."""
    page_source: Nodes32
    """int32[n], ascending: the node that knows a struct page of another, or is linked through its
    own. Left-over ones are frequent (scatterlists): they count after all other pointers."""
    page_target: Nodes32
    root_at: Words
    """uint64[roots]: direct-map offset of a word outside nodes, ascending."""
    root_target: NDArray[np.int32]
    """int32[roots]; a few words are kept for each node."""
    root_page: Mask
    """bool[roots]: the word is a pointer to a struct page."""
    dead_at: Words
    """uint64[n]: the same, for words in dead parts of stacks, which count for nothing."""
    dead_target: NDArray[np.int32]
    roots: int
    """Root words in all."""
    coverage: Coverage


def find_references(
    nodes: Nodes,
    frames: Frames,
    stacks: Stacks,
    present: ByFrame[np.bool_] | None,
    progress: Progress,
    along: Sequence[Scanner[Any]] = (),
) -> References:
    """The pass. Memory is 8 bytes an edge and 12 a kept root.

    Scanners `along` look at the same pages.
    """
    view = nodes.view
    readable = readable_frames(view, frames, present, *KERNEL_USES)
    apart = nodes.table.row_of_page.map(lambda row: row >= 0).frames()
    apart = apart[apart < len(frames.use)]
    apart = apart[frames.use[apart] == FrameUse.APART]
    readable.set(apart if present is None else apart[present[apart]], np.bool_(True))
    total = readable.count()
    scanner = _Pointers(nodes, stacks, readable)
    unread = scan_memory(view, readable, present, [scanner, *along], progress, "pointers")
    seen = readable.join(frames.use, lambda read, use: np.where(read, use, FrameUse.ABSENT))
    counts = seen.tally(max(FrameUse) + 1)
    counts -= np.bincount(frames.use[unread], minlength=len(counts))
    counts[FrameUse.ABSENT] = 0
    # Reserved page frames that the dump lacks are holes between banks of memory: no dump has them.
    missing = frames.count(*_ALLOCATED) - int(counts[list(_ALLOCATED)].sum())
    missing_slab = frames.count(*_MAYBE_SLAB) - int(counts[list(_MAYBE_SLAB)].sum())
    unknown = frames.count(FrameUse.UNKNOWN) - int(counts[FrameUse.UNKNOWN])
    size = total << view.space.page_shift
    return scanner.result(Coverage(int(counts.sum()), missing, missing_slab, size, unknown))


def roots_in(
    nodes: Nodes,
    stacks: Stacks,
    wanted: ByFrame[np.bool_],
    present: ByFrame[np.bool_] | None,
    progress: Progress,
) -> tuple[NDArray[np.int32], Mask]:
    """Nodes that words of these page frames point at, which are no nodes' own: each once at least,
    and whether by its struct page."""
    scanner = _Pointers(nodes, stacks, wanted)
    scan_memory(nodes.view, wanted, present, [scanner], progress, "pointers in more slabs")
    found = scanner.result(Coverage(0, 0, 0, 0))
    return found.root_target, found.root_page


@dataclass(slots=True)
class _Found:
    """What one piece of memory says; each with whether the pointer is one to a struct page."""

    edges: list[tuple[bool, Nodes32, Nodes32]] = field(default_factory=list)
    rooted: list[tuple[bool, Words, Nodes32]] = field(default_factory=list)
    dead: list[tuple[Words, Nodes32]] = field(default_factory=list)
    roots: int = 0


_ELSEWHERE, _IN_SLAB, _IN_NODE, _IN_MAP = range(4)


class _Block:
    """The page frames that a piece of memory is in: what is known of a page is asked once."""

    def __init__(self, of: _Pointers, offset: int, end: int) -> None:
        self.shift = shift = int(of.shift)
        self.first, last = offset >> shift, -(-end >> shift)
        pages = slice(self.first, last)
        self.wanted, self.stale = of.wanted[pages], of.stale[pages]
        self.holder = of.nodes.of_frame[pages]
        starts = np.arange(self.first, last, dtype=np.uint64) << of.shift
        described = of.nodes.map.described(starts) >= 0
        described |= of.nodes.map.described(starts + of.last_word) >= 0
        self.kind = np.where(described, _IN_MAP, _ELSEWHERE)
        self.kind[self.holder >= 0] = _IN_NODE
        row = of.table.row_of_page[pages]
        self.kind[row >= 0] = _IN_SLAB
        self.of_tasks = (row >= 0) & of.of_tasks[row]
        self.silent = of.silent.touches(offset, end)
        low, high = np.searchsorted(of.stacks.dead_frame, [self.first, last]).tolist()
        self.dead = low < high
        # Memory of no node, slabs outside a sample as well: all its words are roots.
        self.plain = not (self.silent or self.dead or self.kind.any()) and bool(self.wanted.all())


class _Pointers:
    """The scanner for pointers to nodes, and what it found so far."""

    def __init__(self, nodes: Nodes, stacks: Stacks, wanted: ByFrame[np.bool_]) -> None:
        self.nodes, self.stacks, self.wanted = nodes, stacks, wanted
        view = nodes.view
        self.table = table = nodes.table
        self.silent = silent_words(view, table)
        space = view.space
        self.last_word = np.uint64(space.page_size - 8)
        self.shift, self._in_page = np.uint64(space.page_shift), np.uint64(space.page_size - 1)
        self._leads = Leads(nodes)
        ignored = [i for i, c in enumerate(view.caches.all) if c.name in BOOKKEEPING]
        self._ignored = np.isin(table.index.cache, np.array(ignored, np.uint16))
        self._any_ignored = bool(self._ignored.any())
        # RCU's list of callbacks runs through those of them that wait to be freed.
        record = view.host.layout("struct kmemleak_object")
        self._rcu = record["rcu"].offset if record is not None and "rcu" in record else -1 & _WORD
        # A slab's vector of memory cgroups may be an object of that very slab (5.9 to 5.13).
        vector = vector_member(view.host)
        self._vector = None if vector is None else vector[0][vector[1]].offset
        self._links = links_of_tasks(view.host)
        task = view.caches.find("task_struct")
        self._task = None if task is None else view.caches.index(task)
        # One more, for pages that are in no slab.
        self.of_tasks = np.append(table.index.cache == self._task, False)
        self.stale: ByFrame[np.bool_] = ByFrame.filled(len(nodes.of_frame), np.bool_(False))
        cached = (cached_pages(view.host, space) - np.uint64(space.direct.start)) >> self.shift
        cached = cached[cached < np.uint64(len(self.stale))]
        self.stale.set(cached.astype(np.int64), np.bool_(True))
        self._edges = {by_page: Edges(nodes.first_area) for by_page in (False, True)}
        self._rooted: dict[bool, list[tuple[Words, Nodes32]]] = {False: [], True: []}
        self._dead: list[tuple[Words, Nodes32]] = []
        self._kept = np.zeros(nodes.count, np.uint8)
        self._roots = 0

    def look(self, offset: int, words: Words) -> _Found:
        """What words say that begin at direct-map `offset`. It changes nothing here."""
        found = _Found()
        at, target, of_page = self._leads.of(offset, words)
        if len(at):
            block = _Block(self, offset, offset + 8 * len(words))
            self._pointers(found, block, offset + 8 * at.astype(np.int64), target, of_page)
        return found

    def take(self, found: _Found) -> None:
        """Keep it; of what is found in one go a target's first word counts."""
        for by_page, source, target in found.edges:
            self._edges[by_page].add(source, target)
        self._dead += found.dead
        self._roots += found.roots
        for by_page, where, target in found.rooted:
            fresh = self._kept[target] < _ROOTS_KEPT
            where, target = where[fresh], target[fresh]
            self._kept[target] += 1
            self._rooted[by_page].append((where, target))

    def _pointers(
        self,
        out: _Found,
        block: _Block,
        where: NDArray[np.int64],
        target: Nodes32,
        of_page: NDArray[np.intp],
    ) -> None:
        """Words at `where` lead to nodes, those `of_page` by struct pages."""
        by_page = None
        if len(of_page):
            by_page = np.zeros(len(where), np.bool_)
            by_page[of_page] = True
        if block.plain:
            for page in (False, True) if by_page is not None else (False,):
                some = slice(None) if by_page is None else np.flatnonzero(by_page == page)
                led, place = target[some], where[some]
                begins = np.flatnonzero(np.append(True, led[1:] != led[:-1])[: len(led)])
                once, first = np.unique(led[begins], return_index=True)
                out.rooted.append((page, place[begins[first]].astype(np.uint64), once))
                out.roots += len(led)
            return
        wanted = block.wanted[(where >> block.shift) - block.first]
        if not wanted.all():
            kept = np.flatnonzero(wanted)
            where, target = where[kept], target[kept]
            by_page = None if by_page is None else by_page[kept]
        places = where.astype(np.uint64)
        if by_page is None:
            self._sort(out, block, places, target, False)
            return
        for page in (False, True):
            some = np.flatnonzero(by_page == page)
            if len(some):
                self._sort(out, block, places[some], target[some], page)

    def _sort(
        self, out: _Found, block: _Block, where: Words, target: Nodes32, by_page: bool
    ) -> None:
        """By what the words are in."""
        page = (where >> self.shift).astype(np.intp) - block.first
        kind = block.kind[page]
        in_slab, in_node = kind == _IN_SLAB, kind == _IN_NODE
        if block.stale.any():
            in_node &= ~block.stale[page] | (where & self._in_page < np.uint64(8))
        rest = ~in_slab & (kind != _IN_NODE)
        if in_slab.any():
            self._in_slabs(out, block, where[in_slab], target[in_slab], by_page)
        if in_node.any():
            self._in_nodes(out, block.holder[page[in_node]], target[in_node], by_page)
        in_map = np.flatnonzero(kind == _IN_MAP)
        if len(in_map):
            rest[in_map] = self._in_map(out, where[in_map], target[in_map], by_page)
        if rest.any():
            self._outside(out, block, where[rest], target[rest], by_page)

    def _in_slabs(
        self, out: _Found, block: _Block, where: Words, target: Nodes32, by_page: bool
    ) -> None:
        table = self.table
        source, within = table.locate(where)
        held = source >= 0
        if block.silent:
            held &= ~self.silent.holds(where)
        if block.of_tasks.any():
            self._unlink(held, within, block.of_tasks[(where >> self.shift) - block.first], target)
        if self._any_ignored:
            record = self._ignored[table.row_of_page[(where >> self.shift).astype(np.intp)]]
            held &= ~record | (within == np.uint64(self._rcu))
        at = np.flatnonzero(held & (target >= self.nodes.first_area))
        held[at[self.nodes.describes(table.addresses(source[at]), target[at])]] = False
        state = table.state[np.maximum(source, 0)]
        edge = held & (state == State.ALLOCATED) & (source != target)
        out.edges.append((by_page, source[edge].astype(np.int32), target[edge]))
        # What may be free and may be not speaks for what it points at.
        unknown = held & (state == State.UNKNOWN)
        if unknown.any():
            self._outside(out, block, where[unknown], target[unknown], by_page)

    def _unlink(self, held: Mask, within: Words, of_tasks: Mask, target: Nodes32) -> None:
        """Not `held` is what a task knows of another one for the scheduler's sake alone."""
        mine = np.flatnonzero(of_tasks & held & (target < self.nodes.first_area))
        inside = within[mine]
        for start, end in self._links:
            at = mine[(inside >= start) & (inside < end)]
            both = self.table.caches(target[at].astype(np.int64)) == self._task
            held[at[both]] = False

    def _in_nodes(self, out: _Found, source: Nodes32, target: Nodes32, by_page: bool) -> None:
        """Words of areas and of blocks of pages, or of their struct pages."""
        edge = source != target
        at = np.flatnonzero(edge & (target >= self.nodes.first_area))
        starts = self.nodes.addresses(source[at].astype(np.int64))
        edge[at[self.nodes.describes(starts, target[at])]] = False
        out.edges.append((by_page, source[edge], target[edge]))

    def _in_map(self, out: _Found, where: Words, target: Nodes32, by_page: bool) -> Mask:
        """A struct page speaks for the node that its page is of; that of a free page for none.

        Returns which of the words speak for themselves.
        """
        nodes = self.nodes
        frame = nodes.map.described(where)
        known = (frame >= 0) & (frame < len(nodes.of_frame))
        at = np.where(known, frame, 0)
        holder = np.where(known, nodes.of_frame[at], -1)
        # Only the first struct page of a block is its owner's; in the others old links are left.
        block = holder - nodes.first_block
        linked = block >= 0
        linked[linked] = nodes.blocks.first[block[linked]] == frame[linked]
        if linked.any():
            self._in_nodes(out, holder[linked], target[linked], True)
        idle = (holder >= 0) | (known & ~nodes.used[at] & (target >= nodes.first_area))
        # SLAB's struct pages know where their slab's first slot is (s_mem), whoever has that.
        row = self.table.row_of_page[np.minimum(at, len(self.table.row_of_page) - 1)]
        inside = known & (row >= 0) & (target < nodes.first_area)
        inside[inside] = self.table.rows(target[inside].astype(np.int64)) == row[inside]
        if self._vector is not None:
            inside[inside] = nodes.map.within(where[inside]) != self._vector
        return np.asarray(~linked & ~idle & ~inside, np.bool_)

    def _outside(
        self, out: _Found, block: _Block, where: Words, target: Nodes32, by_page: bool
    ) -> None:
        if block.silent:
            kept = ~self.silent.holds(where)
            where, target = where[kept], target[kept]
        if block.dead:
            dead = self.stacks.dead(where)
            if dead.any():
                out.dead.append((where[dead], target[dead]))
                where, target = where[~dead], target[~dead]
        out.roots += len(target)
        begins = np.append(True, target[1:] != target[:-1])[: len(target)]
        once, first = np.unique(target[begins], return_index=True)
        out.rooted.append((by_page, where[begins][first], once))

    def result(self, coverage: Coverage) -> References:
        rooted = [*self._rooted[False], *self._rooted[True]]
        root_at, root_target = placed(rooted)
        by_page = np.isin(root_at, placed(self._rooted[True])[0])
        dead_at, dead_target = placed(self._dead)
        return References(
            *self._edges[False].ordered(),
            *self._edges[True].ordered(),
            root_at,
            root_target,
            by_page,
            dead_at,
            dead_target,
            self._roots,
            coverage,
        )

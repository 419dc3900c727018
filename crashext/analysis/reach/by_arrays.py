"""What words of memory are in, and whether they hold what they lead to: with numpy.

Without a compiler this is the loop over memory; with one it is what pointers.c is compared with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.leads import Leads
from crashext.analysis.reach.nodes import Nodes32
from crashext.analysis.reach.sources import Found, Sources
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.slab.objects import State

_ELSEWHERE, _IN_SLAB, _IN_NODE, _IN_MAP = range(4)


class _Block:
    """The page frames that a piece of memory is in: what is known of a page is asked once."""

    def __init__(self, of: ByArrays, offset: int, end: int) -> None:
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


class ByArrays:
    """Looks at words."""

    def __init__(self, known: Sources) -> None:
        self.nodes, self.stacks, self.wanted = known.nodes, known.stacks, known.wanted
        self.table, self.silent = known.nodes.table, known.silent
        space = known.nodes.view.space
        self.last_word = np.uint64(space.page_size - 8)
        self.shift, self._in_page = np.uint64(space.page_shift), np.uint64(space.page_size - 1)
        self._leads = Leads(known.nodes, known.task)
        self._ignored, self._rcu = known.bookkeeping, known.bookkeeping_word
        self._any_ignored = bool(self._ignored.any())
        self._vector, self._links, self._task = known.vector, known.links, known.task
        # One more, for pages that are in no slab.
        self.of_tasks = np.append(self.table.index.cache == known.task, False)
        self.stale: ByFrame[np.bool_] = ByFrame.filled(len(self.nodes.of_frame), np.bool_(False))
        self.stale.set(known.stale, np.bool_(True))

    def look(self, offset: int, words: Words) -> Found:
        """What words say that begin at direct-map `offset`."""
        found = Found()
        at, target, of_page = self._leads.of(offset, words)
        if len(at):
            block = _Block(self, offset, offset + 8 * len(words))
            self._pointers(found, block, offset + 8 * at.astype(np.int64), target, of_page)
        return found

    def _pointers(
        self,
        out: Found,
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
        self, out: Found, block: _Block, where: Words, target: Nodes32, by_page: bool
    ) -> None:
        """By what the words are in."""
        page = (where >> self.shift).astype(np.intp) - block.first
        kind = block.kind[page]
        in_slab, in_node = kind == _IN_SLAB, kind == _IN_NODE
        if block.stale.any():
            in_node &= ~block.stale[page] | (where & self._in_page < np.uint64(8))
        rest = ~in_slab & (kind != _IN_NODE)
        if block.dead:
            # Of stacks that are blocks of pages, as all are before VMAP_STACK.
            dead = (kind == _IN_NODE) & self.stacks.dead(where)
            in_node &= ~dead
            if dead.any():
                out.dead.append((where[dead], target[dead]))
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
        self, out: Found, block: _Block, where: Words, target: Nodes32, by_page: bool
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

    def _in_nodes(self, out: Found, source: Nodes32, target: Nodes32, by_page: bool) -> None:
        """Words of areas and of blocks of pages, or of their struct pages."""
        edge = source != target
        at = np.flatnonzero(edge & (target >= self.nodes.first_area))
        starts = self.nodes.addresses(source[at].astype(np.int64))
        edge[at[self.nodes.describes(starts, target[at])]] = False
        out.edges.append((by_page, source[edge], target[edge]))

    def _in_map(self, out: Found, where: Words, target: Nodes32, by_page: bool) -> Mask:
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
        inside[inside] = nodes.map.within(where[inside]).astype(np.uint64) != self._vector
        return np.asarray(~linked & ~idle & ~inside, np.bool_)

    def _outside(
        self, out: Found, block: _Block, where: Words, target: Nodes32, by_page: bool
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

"""Blocks of pages that no pointer leads to, and may be in use all the same.

A device, a page table or an IOMMU knows pages by their physical addresses: such blocks are weakly
held. And of an allocation that was split into single pages its owner knows the first only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks
from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.scan import readable_frames
from crashext.analysis.reach.silent import silent_numbers
from crashext.distinct import distinct
from crashext.kernel.access import Words
from crashext.kernel.architecture import ARM64, architecture
from crashext.kernel.byframe import ByFrame, spread
from crashext.kernel.compiled import PhysicalLoops, library
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.numbers import flags_of_timers
from crashext.kernel.pages.pagetables import encryption_bit
from crashext.kernel.slab.view import KernelView

_TABLE_FLAGS = np.uint64(0xFFF0000000000FFF)
"""Bits of an entry of a page table that are no address: x86-64, EPT and VT-d alike. One more where
memory is encrypted."""
_PRESENT = np.uint64(3)
_VALID = np.uint64(1 << 63)
"""With this bit alone arm64's GICv3 keeps addresses of tables of its ITS, one level in another:
GITS_BASER_VALID, its_alloc_table_entry() in drivers/irqchip/irq-gic-v3-its.c (4.5 to 7.2)."""
_PAGES_AT_ONCE = 1 << 10
_ENTRIES_LEAST = 4  # of a page with fewer used words all must be entries, which lead to tables
_ALIKE = 0.9  # of the words of two pages of a table that are the same
_HEADS_LEAST = 32  # pointers of a page into itself that say that it is one
_MAX_SPLIT = 10  # MAX_ORDER: no allocation is larger
_REST_SEEN = 16  # pages with the first: table_perturb of inet_hashtables.c, pages of 16 KiB
NO_ADDRESSES = ("kmem_cache", "mm_struct", "sighand_cache", "vm_area_struct")
"""Caches whose objects hold numbers that look like physical addresses, and none that are some:
of user space, which begins as low as memory does (of a program that is linked to 0x400000 the heap
ends at a page); SA_RESTORER, 0x4000000; a cache's own flags, as 0x40030000 (6.1)."""
MOST_ALIKE = 8
"""Of a page in use no more words know the physical address, but for page tables: one word in all
blocks of a busy 6.1. Flags and powers of two, as 0x40040000 or 0x3f000000, are in 10 to 734."""

_TIMER_CPU = 0x3FFFF  # TIMER_CPUMASK, of flags: there are not as many CPUs as a page has bytes

Known = tuple[Words, NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""Of words: the direct-map offset, the node that it is in, the block that it names, and the page
frame that is all that it says; -1 there for entries of page tables."""


@dataclass(frozen=True)
class WeaklyHeld:
    """Blocks that only a physical address leads to, and the words that have it."""

    blocks: NDArray[np.bool_]
    """bool[blocks]: which they are."""
    names: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32[n]: the block that each word names."""
    at: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    """uint64[n]: the direct-map offset of each word."""


def rest_of_split(nodes: Nodes, marks: Marks) -> NDArray[np.bool_]:
    """Blocks of one page that may be the rest of a split allocation: bool[blocks].

    They follow a reached page without a gap, and lie within the order that this one is aligned to.
    Blocks of several pages that are split are such a rest too where they begin at a page that no
    allocation of their size begins at: those are aligned to it. Then their first page only looks
    like the first of an allocation because it was one in an earlier use.

    Leaked pages come one after the other, too: where single pages in a row go on past that order,
    only so many of them are a rest as the largest that was seen has. A row that ends within its
    order may still be a leak, but one reached page in 2**n is aligned to order n.

    Two tables of one size share an allocation (udp_table's hash2, tcp_hashinfo's bhash2): their
    owner knows its middle too, and the row begins anew there. Not so of three pages: two reached
    neighbours and a leaked page are frequent where single pages leak.
    """
    blocks = nodes.blocks
    first, pages = blocks.first, blocks.pages
    reached = marks.reached[nodes.first_block :]
    result = np.zeros(len(first), np.bool_)
    if not len(first):
        return result
    loose = ~reached & ((pages == 1) | blocks.split & (pages > first & -first))
    # The last block before each that is not loose, if all between them are neighbours.
    number = np.arange(len(first))
    joined = np.append(False, first[1:] == first[:-1] + pages[:-1])
    begins = ~loose | ~joined
    lead = np.maximum.accumulate(np.where(begins, number, 0))
    whole = (pages > 1) & ~blocks.split
    held = (reached & ~whole)[lead] & (lead != number)
    held &= (pages > 1) | (pages[lead] == 1)  # single pages that follow are anybody's
    aligned = first & -first
    limit = first[lead] + np.minimum(aligned[lead], 1 << _MAX_SPLIT)
    row = np.cumsum(begins) - 1
    end = (first + pages)[np.append(np.flatnonzero(begins)[1:], len(first)) - 1][row]
    near = np.minimum(limit, first[lead] + _REST_SEEN)
    limit = np.where((pages > 1) | (end <= limit), limit, near)
    result[:] = loose & held & (first + pages <= limit)
    # The reached page that the row before this one follows.
    top = lead[np.maximum(lead - 1, 0)]
    half = first[lead] - first[top]
    twin = joined[lead] & (reached & ~whole)[lead] & (reached & ~whole)[top]
    # Pages in all: twice those of the first half, or one more where the middle is inside of a page.
    twin &= ((end - first[top]) // 2 == half) & (half > 1)
    twin &= end <= first[top] + np.minimum(aligned[top], 1 << _MAX_SPLIT)
    result |= loose & twin
    return np.asarray(result | _rest_of_tables(nodes, reached, joined), np.bool_)


def _rest_of_tables(
    nodes: Nodes, reached: NDArray[np.bool_], joined: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Blocks of several pages that were split, follow one such that is reached, within the order
    that it is aligned to, and have the same in them: heads of lists, each of which points at
    itself. A table that was in several parts in an earlier use: futex_queues of a 5.10, four times
    two pages.
    """
    blocks, view = nodes.blocks, nodes.view
    first, pages = blocks.first, blocks.pages
    several = blocks.split & (pages > 1)
    number = np.arange(len(first))
    lead = np.maximum.accumulate(np.where(reached | ~several | ~joined, number, 0))
    held = several & ~reached & reached[lead] & several[lead] & (lead != number)
    limit = first[lead] + np.minimum(first[lead] & -first[lead], 1 << _MAX_SPLIT)
    held &= first + pages <= limit
    some = np.flatnonzero(held)
    for begin in range(0, len(some), _PAGES_AT_ONCE):
        row = some[begin : begin + _PAGES_AT_ONCE]
        mine, inner = _relative(view, first[row])
        other, _ = _relative(view, first[lead[row]])
        alike = (mine == other).mean(axis=1) >= _ALIKE
        held[row] = alike & (inner >= _HEADS_LEAST)
    return np.asarray(held, np.bool_)


def _relative(view: KernelView, frames: NDArray[np.int64]) -> tuple[Words, NDArray[np.int64]]:
    """Words of pages, those that point into their own page by how far, and how many these are."""
    start = view.space.addresses(frames.astype(np.uint64))[:, None]
    data, ok = view.host.read_many(start[:, 0], view.space.page_size)
    words = np.ascontiguousarray(data).view("<u8").reshape(len(frames), -1) * ok[:, None]
    inside = words - start < np.uint64(view.space.page_size)
    return np.where(inside, words - start, words), np.count_nonzero(inside, axis=1)


class PhysicalAddresses:
    """The scanner for blocks whose physical address somebody knows: whole words, aligned to a
    page, or entries of page tables. It goes along with the pass that finds the pointers: a
    compressed dump is read once."""

    def __init__(
        self,
        nodes: Nodes,
        frames: Frames,
        tables: NDArray[np.int64],
        present: ByFrame[np.bool_] | None,
    ) -> None:
        """`tables` are page frames of the kernel's own page tables, which map all memory there
        is."""
        wanted = readable_frames(nodes.view, frames, present, FrameUse.SLAB, FrameUse.KERNEL)
        wanted.set(tables[tables < len(wanted)], np.bool_(False))
        self._nodes, self._wanted = nodes, wanted
        self._shift = np.uint64(nodes.view.space.page_shift)
        self._entries = nodes.view.space.page_size // 8
        self._limit = np.uint64(len(nodes.of_frame) << nodes.view.space.page_shift)
        self._flags = _TABLE_FLAGS | np.uint64(encryption_bit(nodes.view.host))
        self._loops = None
        if (known := library()) is not None:
            bits = (int(self._flags), int(_PRESENT))
            rest = (nodes.view.space.page_shift, nodes.first_block, _ENTRIES_LEAST)
            self._loops = PhysicalLoops(known, nodes.of_frame, *bits, *rest)
        self._silent = silent_numbers(nodes.view)
        self._valid_bit = np.uint64(0)
        if architecture(nodes.view.host) is ARM64:
            self._valid_bit = _VALID
        self._found: list[Known] = []

    def look(self, offset: int, words: Words) -> Known | None:
        """Blocks that words name which begin at direct-map `offset`, and the nodes that the words
        are in, -1 outside of all."""
        first = offset >> int(self._shift)
        wanted = self._wanted[first : first + len(words) // self._entries]
        if not wanted.any():
            return None
        at, node = self.find(words, wanted)
        if self._valid_bit:
            more = self._valid(words, wanted)
            at, node = np.append(at, more[0]), np.append(node, more[1])
        if not len(at):
            return None
        where = np.uint64(offset) + at.astype(np.uint64) * np.uint64(8)
        holder = self._nodes.at_offsets(where).astype(np.int32)
        # What a slab has beside its objects speaks for nobody.
        kept = holder >= 0
        kept |= self._nodes.table.row_of_page[(where >> self._shift).astype(np.intp)] < 0
        kept &= ~self._silent.holds(where)
        known = words[at[kept]]
        frame = ((known & ~self._flags) >> self._shift).astype(np.int32)
        frame[known & self._flags & ~(self._valid_bit) != 0] = -1
        return where[kept], holder[kept], node[kept], frame

    def find(
        self, words: Words, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.signedinteger], NDArray[np.int32]]:
        """Indices of such words of `wanted` pages, and the blocks."""
        if self._loops is None:
            return self.by_arrays(words, wanted)
        return self._loops.find(words, wanted)

    def by_arrays(
        self, words: Words, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.signedinteger], NDArray[np.int32]]:
        """What `PhysicalLoops` finds."""
        place = words & ~self._flags
        inside = (place < self._limit) & (place != 0)
        # An address alone; in a page full of entries of a page table, with their flags.
        alone = words & self._flags == 0
        at = np.flatnonzero(inside & (alone | _in_tables(words, inside, self._entries)))
        return self._blocks_of(at, place[at], wanted)

    def _valid(
        self, words: Words, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """The same of addresses with `_VALID` and no other flag."""
        place = words - self._valid_bit
        at = np.flatnonzero(place < self._limit)
        at = at[(place[at] & self._flags == 0) & (place[at] != 0)]
        return self._blocks_of(at, place[at], wanted)

    def _blocks_of(
        self, at: NDArray[np.intp], place: Words, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Those of the words at indices `at`, which say `place`, that are of wanted pages and name
        a block."""
        node = self._nodes.of_frame[(place >> self._shift).astype(np.int64)]
        hit = node >= self._nodes.first_block
        hit[hit] = wanted[at[hit] // self._entries]
        return at[hit], node[hit]

    def take(self, found: Known | None) -> None:
        """Keep it."""
        if found is not None:
            self._found.append(found)

    def held(self, marks: Marks) -> WeaklyHeld:
        """Blocks that nothing but such an address leads to, by whom something leads to, or by
        words outside of all nodes.

        A number that is in many words is none: addresses of pages are rarely told so often.
        """
        result = np.zeros(len(self._nodes.blocks.first), np.bool_)
        if not self._found:
            return WeaklyHeld(result)
        where, holder, node, frame = map(np.concatenate, zip(*self._found, strict=True))
        _, which, times = np.unique(frame, return_inverse=True, return_counts=True)
        some = ~self._of_numbers(holder) & ((frame < 0) | (times[which] <= MOST_ALIKE))
        some &= ~marks.reached[node]
        some[some] = ~self._of_timers(where[some], frame[some])
        entry = frame < 0
        entries = np.flatnonzero(some & entry)
        some[entries] = self._of_tables(where[entries], holder[entries], node[entries])
        where, holder, entry = where[some], holder[some], entry[some]
        block = node[some] - np.int32(self._nodes.first_block)
        reached = (holder < 0) | marks.reached[np.maximum(holder, 0)]
        # An IOMMU's tables know the next level so, and pointers lead to the first one only.
        below = entry & (holder >= self._nodes.first_block)
        of_block = np.where(below, holder - np.int32(self._nodes.first_block), 0)
        order = np.flatnonzero(below)
        order = order[np.argsort(of_block[order], kind="stable")]
        holders = of_block[order]
        fresh = distinct(block[reached])
        while len(fresh):  # each block once, however many levels lie one below another
            result[fresh] = True
            low = np.searchsorted(holders, fresh)
            high = np.searchsorted(holders, fresh, side="right")
            led = block[order[spread(low, high)]]
            fresh = distinct(led[~result[led]])
        live = reached | below & result[of_block]
        return WeaklyHeld(result, block[live], where[live])

    def _of_tables(
        self, where: Words, holder: NDArray[np.int32], node: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Which entries of page tables count: of pages that use few words, those of a block that
        lead to what may be a table itself. A page with one number in it says little."""
        start, shift = np.uint64(self._nodes.view.space.direct.start), self._shift
        used, _ = self._used(start + (where >> shift << shift))
        result = used >= _ENTRIES_LEAST
        few = np.flatnonzero(~result & (holder >= self._nodes.first_block))
        used, entries = self._used(self._nodes.addresses(node[few].astype(np.int64)))
        result[few] = 2 * entries >= used
        return np.asarray(result, np.bool_)

    def _used(self, addresses: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of pages at direct-map addresses the words that are not zero, and those that may be
        entries of page tables; of what the dump has not none, as of pages of zeros."""
        pages, which = np.unique(addresses, return_inverse=True)
        found = np.zeros((2, len(pages)), np.int64)
        for begin in range(0, len(pages), _PAGES_AT_ONCE):
            some = slice(begin, begin + _PAGES_AT_ONCE)
            data, ok = self._nodes.view.host.read_many(pages[some], 8 * self._entries)
            words = np.ascontiguousarray(data).view("<u8").reshape(len(ok), -1) * ok[:, None]
            place = words & ~self._flags
            entry = (place < self._limit) & (place != 0) & (words & _PRESENT != 0)
            found[:, some] = np.count_nonzero(words, axis=1), np.count_nonzero(entry, axis=1)
        return found[0][which], found[1][which]

    def _of_timers(self, where: Words, frame: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which words that name page frames are flags of timers."""
        view = self._nodes.view
        result = (frame > 0) & (frame << self._shift.astype(np.int64) & _TIMER_CPU == 0)
        if not result.any():
            return np.asarray(result, np.bool_)
        at = where[result] + np.uint64(view.space.direct.start)
        result[result] = flags_of_timers(view.host, view.space, at)
        return np.asarray(result, np.bool_)

    def _of_numbers(self, holder: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of some nodes are of `NO_ADDRESSES`."""
        caches = self._nodes.view.caches
        known = [c for c in map(caches.find, NO_ADDRESSES) if c is not None]
        result = (holder >= 0) & (holder < self._nodes.first_area)
        slots = holder[result].astype(np.int64)
        result[result] = np.isin(self._nodes.table.caches(slots), [caches.index(c) for c in known])
        return np.asarray(result, np.bool_)


def _in_tables(words: Words, inside: NDArray[np.bool_], entries: int) -> NDArray[np.bool_]:
    """Words of pages most of whose words, where they are not zero, may be entries: bool[n]."""
    result = np.zeros(len(words), np.bool_)
    whole = len(words) // entries * entries
    pages = words[:whole].reshape(-1, entries)
    entry = (inside[:whole] & (words[:whole] & _PRESENT != 0)).reshape(-1, entries)
    used = np.count_nonzero(pages, axis=1)
    entries = np.count_nonzero(entry, axis=1)
    table = np.where(used < _ENTRIES_LEAST, entries == used, 2 * entries > used)
    result[:whole] = (entry & table[:, None]).reshape(-1)
    return result

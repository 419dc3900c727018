"""Blocks of pages that no pointer leads to, and may be in use all the same.

A device, a page table or an IOMMU knows pages by their physical addresses: such blocks are weakly
held. And of an allocation that was split into single pages its owner knows the first only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks
from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.scan import readable_frames, scan_memory
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.progress import Progress

_TABLE_FLAGS = np.uint64(0xFFF0000000000FFF)
"""Bits of an entry of a page table that are no address: x86-64, EPT and VT-d alike."""
_PRESENT = np.uint64(3)
_ENTRIES_LEAST = 4  # used entries that a page needs to be taken for a table
_MAX_SPLIT = 10  # MAX_ORDER: no allocation is larger


def rest_of_split(nodes: Nodes, marks: Marks) -> NDArray[np.bool_]:
    """Blocks of one page that may be the rest of a split allocation: bool[blocks].

    They follow a reached page without a gap, and lie within the order that this one is aligned to.
    Blocks of several pages that are split are such a rest too where they begin at a page that no
    allocation of their size begins at: those are aligned to it. Then their first page only looks
    like the first of an allocation because it was one in an earlier use.
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
    held = reached[lead] & ((pages == 1) | blocks.split)[lead] & (lead != number)
    aligned = first[lead] & -first[lead]
    order = np.minimum(aligned, 1 << _MAX_SPLIT)
    result[:] = loose & held & (first + pages <= first[lead] + order)
    return result


def weakly_held_blocks(
    nodes: Nodes,
    frames: Frames,
    marks: Marks,
    tables: NDArray[np.int64],
    present: ByFrame[np.bool_] | None,
    progress: Progress,
) -> NDArray[np.bool_]:
    """Unreachable blocks whose physical address somebody knows: bool[blocks]. One pass.

    `tables` are page frames of the kernel's own page tables, which map all memory there is.
    """
    reached = marks.reached[nodes.first_block :]
    if reached.all():
        return np.zeros(len(reached), np.bool_)
    wanted = readable_frames(nodes.view, frames, present, FrameUse.SLAB, FrameUse.KERNEL)
    wanted.set(tables[tables < len(wanted)], np.bool_(False))
    scanner = _PhysicalAddresses(nodes, marks, wanted)
    scan_memory(nodes.view, wanted, present, [scanner], progress, "physical addresses of pages")
    return scanner.found


class _PhysicalAddresses:
    """The scanner for them: whole words, aligned to a page, or entries of page tables."""

    def __init__(self, nodes: Nodes, marks: Marks, wanted: ByFrame[np.bool_]) -> None:
        self._nodes, self._reached = nodes, marks.reached
        limit = len(nodes.of_frame)
        self._shift = np.uint64(nodes.view.space.page_shift)
        self._entries = nodes.view.space.page_size // 8
        self._limit = np.uint64(limit << nodes.view.space.page_shift)
        self._wanted = wanted
        # -1, which is no node, counts as reached.
        reached = np.append(marks.reached, True)
        reached[: nodes.first_block] = True
        self._asked = nodes.of_frame.map(lambda node: ~reached[node])
        self.found = np.zeros(len(nodes.blocks.first), np.bool_)

    def look(self, offset: int, words: Words) -> NDArray[np.int32]:
        """Nodes that words name which begin at direct-map `offset`."""
        place = words & ~_TABLE_FLAGS
        inside = (place < self._limit) & (place != 0)
        # An address alone; in a page full of entries of a page table, with their flags.
        alone = words & _TABLE_FLAGS == 0
        at = np.flatnonzero(inside & (alone | _in_tables(words, inside, self._entries)))
        frame = (place[at] >> self._shift).astype(np.int64)
        hit = self._asked[frame]
        at, frame = at[hit], frame[hit]
        where = np.uint64(offset) + at.astype(np.uint64) * np.uint64(8)
        holder = self._nodes.at_offsets(where)
        live = (holder < 0) | self._reached[np.maximum(holder, 0)]
        live &= self._wanted[(where >> self._shift).astype(np.intp)]
        nodes: NDArray[np.int32] = self._nodes.of_frame[frame[live]]
        return nodes

    def take(self, found: NDArray[np.int32]) -> None:
        """Those are weakly held."""
        self.found[found - self._nodes.first_block] = True


def _in_tables(words: Words, inside: NDArray[np.bool_], entries: int) -> NDArray[np.bool_]:
    """Words of pages most of whose words, where they are not zero, may be entries: bool[n]."""
    result = np.zeros(len(words), np.bool_)
    whole = len(words) // entries * entries
    pages = words[:whole].reshape(-1, entries)
    entry = (inside[:whole] & (words[:whole] & _PRESENT != 0)).reshape(-1, entries)
    used = np.count_nonzero(pages, axis=1)
    table = (2 * np.count_nonzero(entry, axis=1) > used) & (used >= _ENTRIES_LEAST)
    result[:whole] = (entry & table[:, None]).reshape(-1)
    return result

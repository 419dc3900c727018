"""What every page frame is used for: free, slab, user, page table, reserved, the kernel's own.

One pass over the memory map. It reads no page's content.

Sources: include/linux/page-flags.h, mm_types.h, mmzone.h (4.19 to 6.12); free pages outside the
buddy lists: mm/page_alloc.c, per_cpu_pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import among
from crashext.hosts.base import Host, Mask
from crashext.kernel.access import Words
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.byframe import ByFrame
from crashext.kernel.memmap import Block, MemoryMap, Order
from crashext.kernel.pages.classify import FrameUse, PageFields, classify
from crashext.kernel.pages.zones import pcp_pages
from crashext.progress import Progress

__all__ = ["USER", "FramePass", "FrameUse", "Frames", "Guess", "frames"]

USER = (FrameUse.ANON, FrameUse.FILE, FrameUse.SHMEM, FrameUse.HUGETLB)


_LEFT_OUT = (*USER, FrameUse.FREE, FrameUse.OFFLINE)


@dataclass(frozen=True)
class Guess:
    """Page frames that the dump holds nothing of and whose struct pages were not all read."""

    looked: int
    """Page frames of them that were looked at, drawn at random."""
    pages: NDArray[np.int64]
    """How many there may be of each use, by those."""


@dataclass(frozen=True)
class Frames:
    """The use of page frames 0 to max_pfn."""

    use: ByFrame[np.uint8]
    """`FrameUse` of each."""
    pcp: int
    """Free pages on per-CPU lists."""
    missing: int
    """Page frames whose struct page is not in the dump."""
    guess: Guess | None = None
    """Of those that `use` calls absent because nobody looked; `count` has them."""

    def count(self, *uses: FrameUse) -> int:
        """Page frames of these uses."""
        return int(self.counts[[int(u) for u in uses]].sum())

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Page frames of each use."""
        counts = self.use.tally(max(FrameUse) + 1)
        return counts if self.guess is None else counts + self.guess.pages

    def runs(self, *uses: FrameUse) -> NDArray[np.int64]:
        """int64[n, 2]: (first pfn, end pfn) of neighbours of these uses."""
        return self.use.among(*uses).runs()


class FramePass:
    """The pass, for whoever reads the blocks of the memory map: `take` each of them in `order`."""

    def __init__(
        self, host: Host, memory: MemoryMap, space: AddressSpace, crowds: Words | None = None
    ) -> None:
        """Raises `UnknownLayout` where struct page is not understood.

        `crowds` are the descriptors of caches whose slabs are set apart.
        """
        self._host, self._memory, self._space = host, memory, space
        self.crowds: Words = np.zeros(0, np.uint64) if crowds is None else crowds
        self._fields = PageFields(host, self.crowds)
        self._lru = self._fields.page.first_of("lru")
        total = int((memory.block_pfns + memory.block_pages).max(initial=0))
        self._use: ByFrame[np.uint8] = ByFrame.filled(total, np.uint8(FrameUse.ABSENT))
        self._links: dict[int, int] = {}  # list node of a page that may be on a pcp list -> next
        self._idle: list[Words] = []
        self._missing, self._inside, self._done = 0, 0, 0
        self.order, self._guess = self._worth()

    @property
    def complete(self) -> bool:
        """Whether all blocks were taken."""
        return self._done == len(self.order)

    def take(self, block: Block) -> NDArray[np.intp]:
        """One block, or some that follow each other; returns the rows that head slabs."""
        self._done += block.number
        self._missing += int((~block.ok).sum())
        found = classify(self._fields, block, self._memory, self._use)
        here, uses = found.use, found.uses
        in_buddy, self._inside = _spread(
            here, block.first_pfn, found.free, found.orders, self._inside
        )
        if in_buddy is not None and uses:
            uses |= 1 << FrameUse.FREE
        if not uses or uses & 1 << FrameUse.FREE:
            self._note_idle(block, here, in_buddy)
        if uses.bit_count() == 1:
            self._use.fill(block.first_pfn, len(here), here[0])
        else:
            self._use.put(block.first_pfn, here)
        return found.heads

    def _note_idle(self, block: Block, here: NDArray[np.uint8], in_buddy: Mask | None) -> None:
        """Free pages that are in no free block may be on a per-CPU list."""
        idle = here == FrameUse.FREE
        if in_buddy is not None:
            idle &= ~in_buddy
        maybe = np.flatnonzero(idle)
        if not len(maybe) or self._lru is None:
            return
        at = self._lru.offset
        pfns = np.uint64(block.first_pfn) + maybe.astype(np.uint64)
        self._idle.append(pfns)
        rows = np.ascontiguousarray(block.rows[maybe, at : at + 8])
        nodes = (self._memory.maps_of(pfns) + np.uint64(at)).tolist()
        self._links.update(zip(nodes, rows.view("<u8").reshape(-1).tolist(), strict=True))

    def frames(self) -> Frames:
        """What was found, once all are taken."""
        memory, use, lru = self._memory, self._use, self._lru
        on_pcp = pcp_pages(self._host, memory, self._space, self._links, lru.offset if lru else 0)
        on_pcp = on_pcp[on_pcp < len(use)]
        _keep_tails(use, self._idle, on_pcp)
        return Frames(use, len(on_pcp), self._missing, self._guess)

    def _worth(self) -> tuple[Order, Guess | None]:
        """The blocks to read, and what the others are by a sample of them.

        Where the dump leaves most memory out it was told to leave out what is not the kernel's.
        That is believed as far as a sample has nothing else.
        """
        memory = self._memory
        order, some, rest = memory.parts(0)
        if len(rest):
            counts = np.zeros(max(FrameUse) + 1, np.int64)
            for block in memory.read(some):
                found = classify(self._fields, block, memory, self._use)
                _spread(found.use, block.first_pfn, found.free, found.orders, 0)
                counts += np.bincount(found.use, minlength=len(counts))
            if counts[list(_LEFT_OUT)].sum() == counts.sum():
                whole = int(memory.block_pages[some].sum() + memory.block_pages[rest].sum())
                scaled = np.round(counts * (whole / max(1, counts.sum()))).astype(np.int64)
                return order[np.argsort(memory.block_pfns[order], kind="stable")], Guess(
                    int(counts.sum()), scaled
                )
        return np.argsort(memory.block_pfns, kind="stable"), None


def frames(
    host: Host,
    memory: MemoryMap,
    space: AddressSpace,
    progress: Progress,
    crowds: Words | None = None,
) -> Frames:
    """Classify every page frame; see `FramePass`."""
    found = FramePass(host, memory, space, crowds)
    done = 0
    for block in memory.read(found.order, together=True):
        found.take(block)
        done += block.number
        progress("page frames", done, len(found.order))
    return found.frames()


def _spread(
    use: NDArray[np.uint8], first: int, heads: NDArray[np.intp], orders: Words, before: int
) -> tuple[Mask | None, int]:
    """Mark whole free blocks in the `use` of page frames from `first` on.

    `before` is where the free blocks of earlier page frames end. Returns which page frames are in
    one, None where none is, and where the last of them ends.
    """
    if not len(heads) and before <= first:
        return None, before
    ends = heads.astype(np.int64) + (np.int64(1) << orders.astype(np.int64))
    inside = np.zeros(len(use) + 1, np.int32)
    np.add.at(inside, heads, 1)
    np.add.at(inside, np.minimum(ends, len(use)), -1)
    free = np.cumsum(inside[:-1]) > 0
    free[: max(0, before - first)] = True
    use[free] = FrameUse.FREE
    return np.asarray(free, np.bool_), max(before, first + int(ends.max(initial=0)))


def _keep_tails(use: ByFrame[np.uint8], idle: list[Words], on_pcp: NDArray[np.int64]) -> None:
    """Pages without references that are nobody's free page belong to the allocation before them.

    Only the first page of an allocation of higher order counts references, unless it is compound.
    """
    if not idle:
        return
    pfns = np.sort(np.concatenate(idle).astype(np.int64))
    pfns = pfns[~among(pfns, on_pcp)]
    if not len(pfns):
        return
    starts = np.flatnonzero(np.diff(pfns, prepend=-2) != 1)
    before = pfns[starts] - 1
    after_kernel = (before >= 0) & (use[np.maximum(before, 0)] == FrameUse.KERNEL)
    run = np.repeat(after_kernel, np.diff(np.append(starts, len(pfns))))
    use.set(pfns[run], np.uint8(FrameUse.KERNEL))

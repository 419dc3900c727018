"""struct pages and physical memory of a generated machine.

Memory comes in sections of 128 MiB. The struct pages of one fill a 2 MiB page exactly, so that one
entry of a page table makes a section like another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.access import require
from crashext.kernel.pages.frames import FrameUse

from .image import PAGE
from .kernel import Kernel
from .shape import SECTION

Rows = NDArray[np.uint8]
PAGES = SECTION // PAGE
_NODE, _ZONE, _NORMAL = 54, 51, 2  # page flags of x86-64: NODES_PGSHIFT, ZONES_PGSHIFT
_ZONE_BITS, _NODE_BITS = 7, (1 << 10) - 1
_ORDER = 10


class Templates:
    """A real struct page of each kind, to be copied."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.page = require(kernel.host, "struct page", "flags")
        self.lru = self.page["lru"].offset
        first = int(np.flatnonzero(kernel.frames.use[:] == FrameUse.FREE)[-1])
        self._check(first)

    def _check(self, pfn: int) -> None:
        flags = int(self.of(pfn)[:8].view("<u8")[0])
        assert flags >> _ZONE & _ZONE_BITS in (0, 1), (
            "a zone of a small machine is not where it is due"
        )

    def of(self, pfn: int) -> Rows:
        rows, ok = self._kernel.view.memory.rows(np.array([pfn], np.uint64))
        assert ok[0]
        row: Rows = rows[0].copy()
        return row

    def some(self, use: FrameUse) -> Rows:
        """One page of that use, whichever."""
        return self.of(int(np.flatnonzero(self._kernel.frames.use[:] == use)[-1]))

    @property
    def buddies(self) -> tuple[Rows, Rows]:
        """The first page of a free block of any order, and another page of one."""
        kind = self.page["page_type"].offset
        head = rest = None
        for pfn in np.flatnonzero(self._kernel.frames.use[:] == FrameUse.FREE)[::-1].tolist():
            row = self.of(pfn)
            is_head = int(row[kind : kind + 4].view("<u4")[0]) == 0xFFFFFF7F
            head, rest = (row, rest) if is_head else (head, row)
            if head is not None and rest is not None:
                return head, rest
        raise AssertionError("no free block of two pages")


def on_node(rows: Rows, node: int) -> None:
    """Make struct pages those of a node's ZONE_NORMAL: uint8[..., sizeof]."""
    flags = rows[..., :8].view("<u8")
    flags &= np.uint64((1 << _ZONE) - 1 | (1 << 64) - (1 << _NODE + 10))
    flags |= np.uint64(node << _NODE | _NORMAL << _ZONE)


@dataclass
class Workspace:
    """The sections whose pages differ: what the generator writes structures into.

    Pages are given out from the first on; those that nobody took are free.
    """

    kernel: Kernel
    templates: Templates
    start: int
    """Physical address."""
    sections: int
    map_at: int = 0
    """Physical address of their struct pages, which the workspace has itself."""
    used: int = 0
    rows: Rows = field(init=False)
    """uint8[pages, sizeof]: their struct pages."""

    def __post_init__(self) -> None:
        size = self.sections * SECTION
        self.kernel.image.add(self.start, size, self.kernel.image.room(size), own=True)
        self.rows = np.zeros((self.sections * PAGES, self.templates.page.size), np.uint8)

    def take(self, count: int, row: Rows, align: int = 1) -> int:
        """So many pages in a row, each with such a struct page; returns the physical address."""
        before, at = self.used, -(-self.used // align) * align
        self.used = at + count
        assert self.used <= len(self.rows), "the workspace is too small"
        self.rows[before : self.used] = row  # what is skipped is the same
        return self.start + PAGE * at

    def row_of(self, physical: int) -> int:
        """Number in `rows` of a page."""
        return (physical - self.start) // PAGE

    def address(self, physical: int) -> int:
        """Direct-map address."""
        return self.kernel.space.direct.start + physical

    def map_address(self, physical: int) -> int:
        """Address of the struct page."""
        return self.kernel.space.vmemmap.start + self.templates.page.size * (physical // PAGE)

    def flush(self) -> None:
        """Write the struct pages."""
        here = np.arange(len(self.rows), dtype=np.uint64)
        bit = self.kernel.host.enumerator("PG_reserved")
        assert bit is not None
        # The list_head of a page that is on no list is its own.
        reserved = self.rows[:, bit // 8] >> bit % 8 & 1 == 1
        own = self.map_address(self.start) + here * np.uint64(self.templates.page.size)
        own += np.uint64(self.templates.lru)
        both = np.repeat(own[:, None], 2, axis=1).view(np.uint8)
        self.rows[reserved, self.templates.lru : self.templates.lru + 16] = both[reserved]
        on_node(self.rows, 0)
        self.kernel.image.write(self.map_at, self.rows)

    def free_rest(self) -> int:
        """Make what nobody took free blocks; returns how many pages that is."""
        head, rest = self.templates.buddies
        left = len(self.rows) - self.used
        self.rows[self.used :] = rest
        private = self.templates.page["private"].offset
        at = self.used
        while at < len(self.rows):
            order = min(_ORDER, (at & -at).bit_length() - 1)
            while at + (1 << order) > len(self.rows):
                order -= 1
            self.rows[at] = head
            self.rows[at, private : private + 8] = np.array([order], "<u8").view(np.uint8)
            at += 1 << order
        return left


def free_section(templates: Templates) -> Rows:
    """The struct pages of a section of free memory, in blocks of the highest order."""
    head, rest = templates.buddies
    rows = np.repeat(rest[None], PAGES, axis=0)
    private = templates.page["private"].offset
    head[private : private + 8] = np.array([_ORDER], "<u8").view(np.uint8)
    rows[:: 1 << _ORDER] = head
    return rows

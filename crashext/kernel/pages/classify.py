"""What each struct page says of its page: a block of the memory map at a time.

Sources: include/linux/page-flags.h, mm_types.h (3.10 to 7.2).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes, Host, Layout, Mask
from crashext.kernel.access import Structures, Words, column, require
from crashext.kernel.byframe import ByFrame
from crashext.kernel.memmap import Block, MemoryMap
from crashext.kernel.pages.kinds import BUDDY, HEAD, TAIL, PageKinds, PageValues, Told, page_kinds
from crashext.kernel.slab.descriptors import SlabFields, slab_fields

_MAX_ORDER = 18
_HUGETLB_DTOR = 2
_LAST_FLAG = 63  # of page flags; a page type of the same name is more


class FrameUse(enum.IntEnum):
    """What a page frame is."""

    ABSENT = 0
    """No struct page."""
    FREE = 1
    SLAB = 2
    RESERVED = 3
    """Kernel image, memory map, boot allocations."""
    ANON = 4
    FILE = 5
    SHMEM = 6
    HUGETLB = 7
    TABLE = 8
    KERNEL = 9
    """From the page allocator, for the kernel itself."""
    OFFLINE = 10
    """Handed to a balloon, or logically offline."""
    UNKNOWN = 11
    """Its struct page is not in the dump: it may be anything."""
    APART = 12
    """A slab of a cache that has very many: a few of them stand for all."""


class PageFields:
    """Where a row of the memory map says what its page is, on this kernel."""

    def __init__(self, host: Host, crowds: Words) -> None:
        """`crowds` are the descriptors of caches whose slabs are set apart."""
        self.slab: SlabFields = slab_fields(host)
        self.page: Layout = require(host, "struct page", "flags")
        # _count was renamed _refcount by 0139aa7b7fa1 (4.7).
        self.refcount = self.page.first_of("_refcount", "_count")
        # 6e292b9be7f4 (4.18) gave _mapcount the second name page_type.
        self.page_type = self.page.first_of("page_type", "_mapcount")
        self.mapping = self.page.first_of("mapping")
        self.private = self.page.first_of("private")
        self.tails = self.slab.tails
        self.crowds = crowds
        self.bits = {
            name: host.enumerator(f"PG_{name}")
            for name in ("reserved", "lru", "swapbacked", "head", "hugetlb")
        }
        notes = host.info().vmcoreinfo
        buddy = host.enumerator("PGTY_buddy")
        # Before page_type it was _mapcount, with -128 (ef2b4b95a63a, 2.6.38).
        unnoted = 0xFFFFFF7F if "page_type" in self.page else 0xFFFFFF80
        self.buddy = _type_value(
            notes.get("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"),
            unnoted if buddy is None else buddy << 24,
        )
        self.offline = _type_value(notes.get("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)"), None)
        # PGTY_ numbers, the top byte of page_type, came with 4ffca5a96678 (6.12). Before, types
        # are bits that are cleared: PG_table is an enumerator since ff202303c398 (6.10), was 0x200
        # before, and 0x400 while there was PG_kmemcg, 0x200, of what memory cgroups are charged
        # for, tables among it: until 5.11, which made page->mem_cgroup memcg_data.
        table, table_bit = host.enumerator("PGTY_table"), host.enumerator("PG_table")
        self.typed = table is not None
        self.tables = {0xFFFFFDFF, 0xFFFFFBFF}
        if table is not None:
            self.tables = {table << 24}
        elif table_bit is not None:
            self.tables = {~table_bit & 0xFFFFFFFF}
        elif "mem_cgroup" in self.page:
            self.tables = {0xFFFFFBFF, 0xFFFFF9FF}
        # Huge pages are a page type since d99e3140a4d3 (6.9, 6.8.9). From 9c5ccf2db04b (6.6) on a
        # flag of the second page told, which is PG_active in all others; before, its destructor: by
        # number since f1e61557f023 (4.4), before that by address, in place of its lru.
        hugetlb = host.enumerator("PGTY_hugetlb")
        self.hugetlb_type = _type_value(
            notes.get("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)"),
            None if hugetlb is None else hugetlb << 24,
        )
        self.dtor, self.huge_dtor = self.page.first_of("compound_dtor"), _HUGETLB_DTOR
        if self.hugetlb_type is not None or (self.bits["hugetlb"] or 0) > _LAST_FLAG:
            self.bits["hugetlb"] = None
        if self.dtor is None and self.hugetlb_type is None and self.bits["hugetlb"] is None:
            lru, frees = self.page.first_of("lru"), host.address_of("free_huge_page")
            if lru is not None and frees is not None:
                self.dtor, self.huge_dtor = lru, frees
        # "Frozen" pages count no references, and are in use all the same: large kmalloc()s since
        # 7.0; their page type came in 6.15.
        kinds = (table, host.enumerator("PGTY_large_kmalloc"))
        self.frozen = np.array([kind << 24 for kind in kinds if kind is not None], np.uint64)

    @cached_property
    def loops(self) -> PageKinds | None:
        """The same, compiled."""
        values = PageValues(
            mapping=self.mapping,
            page_type=self.page_type,
            refcount=self.refcount,
            bits=self.bits,
            typed=self.typed,
            tables=self.tables,
            frozen=self.frozen.tolist(),
            buddy=None if self.private is None else self.buddy,
            offline=self.offline,
            hugetlb=self.hugetlb_type,
            crowds=self.crowds,
        )
        return page_kinds(self.page.size, self.slab, values)

    def flag(self, flags: Words, name: str) -> Mask:
        bit = self.bits[name]
        if bit is None:
            return np.zeros(len(flags), np.bool_)
        return np.asarray(flags >> np.uint64(bit) & np.uint64(1) == 1, np.bool_)

    def second_of_huge(self, rows: Bytes) -> Mask:
        """Which of these second pages of compound pages say that those are huge pages."""
        if self.dtor is not None:
            return np.asarray(column(rows, self.dtor) == np.uint64(self.huge_dtor), np.bool_)
        return self.flag(column(rows, self.page["flags"]), "hugetlb")


def _type_value(text: str | None, otherwise: int | None) -> int | None:
    try:
        return otherwise if text is None else int(text) & 0xFFFFFFFF
    except ValueError:
        return otherwise


@dataclass(frozen=True)
class Classified:
    """What the pages of one block are."""

    use: NDArray[np.uint8]
    """`FrameUse` of each."""
    uses: int
    """1 << use of what some of them are, at least; 0: unknown."""
    heads: NDArray[np.intp]
    """Rows of first pages of slabs."""
    free: NDArray[np.intp]
    """Rows that head free blocks of the buddy allocator."""
    orders: Words
    """Of these."""


def classify(
    fields: PageFields, block: Block, memory: MemoryMap, known: ByFrame[np.uint8]
) -> Classified:
    """Of one block; `known` has the uses of the page frames before it."""
    whole = fields.loops is not None and block.ok.all()
    told = fields.loops.of(block.rows) if fields.loops and whole else by_arrays(fields, block)
    use, tails, buddies = told.use, told.marked(TAIL), told.marked(BUDDY)
    if len(tails):  # else there is nothing of a compound page in it
        _as_their_heads(fields, block, tails, memory, known, use)
        _as_the_real_heads(fields, block, memory, known, use)
    uses = 0 if len(tails) else told.uses
    if fields.private is None or not len(buddies):
        return Classified(use, uses, told.marked(HEAD), buddies[:0], np.zeros(0, np.uint64))
    orders = column(block.rows[buddies], fields.private)
    sane = orders <= _MAX_ORDER
    return Classified(use, uses, told.marked(HEAD), buddies[sane], orders[sane])


def by_arrays(fields: PageFields, block: Block) -> Told:
    """What `PageKinds` finds."""
    pages = Structures(block.rows)
    use = _by_themselves(fields, pages)
    slabs = np.flatnonzero(fields.slab.heads_by_arrays(pages))
    use[slabs] = FrameUse.SLAB
    if len(fields.crowds) and len(slabs):
        owner = column(block.rows[slabs], fields.slab.owner)
        use[slabs[np.isin(owner, fields.crowds)]] = FrameUse.APART
    use[~block.ok] = FrameUse.UNKNOWN
    marks = np.zeros(len(use), np.uint8)
    marks[fields.tails.among(pages)] = TAIL
    marks[_buddies(fields, pages)] |= BUDDY
    marks[slabs] |= HEAD
    marks[~block.ok] = 0
    uses = np.flatnonzero(np.bincount(use))
    return Told(use, marks, sum(1 << i for i in uses.tolist()), int(np.bitwise_or.reduce(marks)))


def _by_themselves(fields: PageFields, pages: Structures) -> NDArray[np.uint8]:
    """What each struct page says of its own page."""
    flags = column(pages, fields.page["flags"])
    use = np.full(len(pages), FrameUse.KERNEL, np.uint8)
    if fields.mapping is not None:
        mapping = column(pages, fields.mapping)
        low, real = mapping & np.uint64(3), mapping > np.uint64(1 << 63)
        swapbacked, lru = fields.flag(flags, "swapbacked"), fields.flag(flags, "lru")
        use[real & (low == 0) & lru] = FrameUse.FILE
        use[real & (low == 0) & swapbacked] = FrameUse.SHMEM
        use[real & (low & np.uint64(1) == 1) & (swapbacked | lru)] = FrameUse.ANON
    if fields.page_type is not None:
        kind = column(pages, fields.page_type)
        whole = kind & np.uint64(0xFF000000) if fields.typed else kind
        for value in fields.tables:
            use[whole == value] = FrameUse.TABLE
        if fields.offline is not None:
            use[kind == fields.offline] = FrameUse.OFFLINE
    if fields.refcount is not None:
        free = column(pages, fields.refcount) == 0
        if fields.page_type is not None and len(fields.frozen):
            kind = column(pages, fields.page_type) & np.uint64(0xFF000000)
            free &= ~np.isin(kind, fields.frozen)
        use[free] = FrameUse.FREE
    if fields.page_type is not None and fields.hugetlb_type is not None:
        # After the free ones: a huge page that waits in its pool has no references.
        use[whole == fields.hugetlb_type] = FrameUse.HUGETLB
    use[fields.flag(flags, "reserved")] = FrameUse.RESERVED
    return use


def _as_their_heads(
    fields: PageFields,
    block: Block,
    tails: NDArray[np.intp],
    memory: MemoryMap,
    known: ByFrame[np.uint8],
    use: NDArray[np.uint8],
) -> None:
    """Give tails of compound pages the use of their heads; huge pages are known by their second."""
    rows: Bytes = block.rows[tails]
    pfns = np.uint64(block.first_pfn) + tails.astype(np.uint64)
    heads, good = memory.pfns_of(fields.tails.heads(rows, memory.maps_of(pfns)))
    good &= heads < pfns
    second = good & (heads + np.uint64(1) == pfns)
    huge = heads[second & fields.second_of_huge(rows)].astype(np.int64) - block.first_pfn
    huge = huge[huge >= 0]
    is_head = fields.flag(column(block.rows[huge], fields.page["flags"]), "head")
    is_slab = np.isin(use[huge], (FrameUse.SLAB, FrameUse.APART))
    use[huge[is_head & ~is_slab]] = FrameUse.HUGETLB
    inside = heads >= np.uint64(block.first_pfn)
    within = good & inside
    use[tails[within]] = use[(heads[within] - np.uint64(block.first_pfn)).astype(np.int64)]
    before = good & ~inside
    use[tails[before]] = known[heads[before].astype(np.int64)]


def _as_the_real_heads(
    fields: PageFields,
    block: Block,
    memory: MemoryMap,
    known: ByFrame[np.uint8],
    use: NDArray[np.uint8],
) -> None:
    """Give what looks like the head of a huge page, and is a tail, the use of the real head.

    Of the struct pages of a huge page most take no memory where hugetlb_free_vmemmap is on: their
    addresses are mapped to the first page of them again, whose first struct page is the head. It
    is told by the next one, which knows the real head: page_fixed_fake_head() in page-flags.h
    (e7d324850bfc, 5.18; until a page of tails took that place in 7.1).
    """
    page = memory.space.page_size
    if page % fields.page.size:
        return
    every = page // fields.page.size
    rows = np.arange(-block.first_pfn % every, len(use) - 1, every)
    flags = column(block.rows[rows], fields.page["flags"])
    rows = rows[fields.flag(flags, "head") & block.ok[rows] & block.ok[rows + 1]]
    rows = rows[fields.tails.among(block.rows[rows + 1])]
    pfns = np.uint64(block.first_pfn) + rows.astype(np.uint64)
    following: Bytes = block.rows[rows + 1]
    heads, good = memory.pfns_of(fields.tails.heads(following, memory.maps_of(pfns + np.uint64(1))))
    good &= heads < pfns
    rows, head = rows[good], heads[good].astype(np.int64)
    inside = head >= block.first_pfn
    of_head = np.empty(len(rows), np.uint8)
    of_head[inside] = use[head[inside] - block.first_pfn]
    of_head[~inside] = known[head[~inside]]
    huge = of_head == FrameUse.HUGETLB
    use[rows[huge]] = of_head[huge]


def _buddies(fields: PageFields, pages: Structures) -> Mask:
    """Which rows say that they head a free block of the buddy allocator."""
    if fields.page_type is None or fields.private is None or fields.buddy is None:
        return np.zeros(len(pages), np.bool_)
    kind = column(pages, fields.page_type)
    if fields.typed:
        return np.asarray(kind & np.uint64(0xFF000000) == fields.buddy & 0xFF000000, np.bool_)
    return np.asarray(kind == fields.buddy, np.bool_)

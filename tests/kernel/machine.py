"""A machine with some page frames, a memory map and slabs, for tests of what reads them."""

from __future__ import annotations

from dataclasses import replace

from crashext.hosts.base import Info, Layout
from crashext.kernel.addresses import AddressSpace, Range
from crashext.kernel.memmap import MemoryMap, memory_map
from crashext.kernel.slab.caches import Caches, SlabCache
from tests.fake import INFO, FakeHost, layout, slab_cache

DIRECT, VMEMMAP = 0xFFFF888000000000, 0xFFFFEA0000000000
TEXT = 0xFFFFFFFF81000000
PG_SLAB = 9
PAGE = layout(
    "struct page",
    64,
    flags=(0, 8),
    compound_head=(8, 8),
    slab_cache=(24, 8),
    page_type=(48, 4),
    freelist=(32, 8),
    inuse=(40, 4, 0, 16),
    objects=(42, 4, 0, 15),
)

KMEM_CACHE = layout("struct kmem_cache", 64, offset=(16, 4))
"""Enough of it to tell SLUB from SLAB."""


def address_space(pages: int) -> AddressSpace:
    """The address space of a machine of that many page frames, without KASLR."""
    return AddressSpace(
        direct=Range(DIRECT, DIRECT + (pages << 12)),
        vmalloc=Range(0xFFFFC90000000000, 0xFFFFE90000000000),
        vmemmap=Range(VMEMMAP, VMEMMAP + 64 * pages),
        text=Range(TEXT, TEXT + 0x1000000),
        image=Range(TEXT, TEXT + 0x2000000),
        modules=Range(0xFFFFFFFF80000000, (1 << 64) - 1),
        percpu_offsets=(0xFFFF88803FC00000,),
        percpu_first_chunk=Range(0xFFFF88803FC00000, 0xFFFF88803FC40000),
    )


class Machine:
    """`pages` page frames in one flat map; slabs are put where a test wants them."""

    def __init__(self, pages: int, *caches: SlabCache, page: Layout = PAGE, info: Info = INFO):
        self.host = FakeHost(page, KMEM_CACHE, enumerators={"PG_slab": PG_SLAB}, info=info)
        self.caches = Caches(caches or [slab_cache()], None)
        self.space = address_space(pages)
        self.host.put(VMEMMAP, bytes(64 * pages))

    @property
    def memory(self) -> MemoryMap:
        return memory_map(self.host, self.space)

    def slab(
        self,
        pfn: int,
        cache: SlabCache | None = None,
        inuse: int = 0,
        objects: int = 8,
        tails: int = 0,
        flags: int = 1 << PG_SLAB,
        page_type: int = 0xFFFFFFFF,
    ) -> int:
        """A slab of 1 + `tails` pages at `pfn`; returns its address."""
        at = VMEMMAP + 64 * pfn
        self.put(pfn, 0, flags)
        self.put(pfn, 24, (cache or self.caches.all[0]).address)
        self.put(pfn, 40, objects << 16 | inuse)
        self.host.put(at + 48, page_type.to_bytes(4, "little"))
        for tail in range(1, tails + 1):
            self.put(pfn + tail, 8, at | 1)
        return DIRECT + (pfn << 12)

    def put(self, pfn: int, offset: int, value: int) -> None:
        """A word of a page frame's struct page."""
        self.host.put(VMEMMAP + 64 * pfn + offset, value.to_bytes(8, "little"))

    def tear(self, first: int, pages: int) -> None:
        """Take some page frames' struct pages out of the dump."""
        start, data = next(iter((s, d) for s, d in self.host.extents.items() if s == VMEMMAP))
        del self.host.extents[start]
        self.host.extents[start] = data[: 64 * first]
        rest = data[64 * (first + pages) :]
        self.host.extents[start + 64 * (first + pages)] = rest


def numbered(cache: SlabCache, number: int) -> SlabCache:
    """The same cache under another address and name."""
    return replace(cache, address=cache.address + 0x400 * number, name=f"{cache.name}.{number}")

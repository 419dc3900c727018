"""What a slab's descriptor says: whose it is, where its objects begin, and where its free ones are.

Three allocators, told apart by the members of their structures and never by a version. It follows
no freelist.

Sources: mm/slab.h struct slab (6.1; d122019bf061, 5.17), struct page before; mm/slab.c (2.6.32,
3.10, 4.18, 6.1): struct slab until 8456a648cf44 (3.13), then struct page's own members.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Bytes, Host, Layout, Mask, Member
from crashext.kernel.access import Structures, UnknownLayout, Words, column, require
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.compiled import library
from crashext.kernel.compound import Tails, tails
from crashext.kernel.memmap import MemoryMap


class SlabKind(enum.Enum):
    """How a kernel knows the free slots of a slab."""

    SLUB = "slub"
    """Each free slot leads to the next."""
    SLAB = "slab"
    """An array of slot numbers, of which those from `active` on are free."""
    CHAINED = "slab, chained"
    """SLAB before 3.13: a struct slab, and behind it kmem_bufctl_t[], each leading to the next."""


@dataclass(frozen=True)
class Described:
    """What the descriptors of n slabs say; one array element each."""

    cache: Words
    """Address of the kmem_cache."""
    page: Words
    """Direct-map address of the first page."""
    first: Words
    """Direct-map address of the first slot: SLAB puts it behind a colour, and behind its own data
    where that is on the slab."""
    inuse: Words
    objects: Words | None
    """None: as many as the cache says."""
    free: Words
    """SLUB: the first free object. SLAB: the array of numbers. Chained: kmem_bufctl_t[]."""
    next: Words
    """Chained: number of the first free slot."""
    ok: Mask
    """The descriptor was read, and is that of the page it was asked for."""


@dataclass(frozen=True)
class SlabFields:
    """Where this kernel keeps what its allocator knows of a slab."""

    kind: SlabKind
    slab: Layout
    """Of struct slab, or of struct page where that serves."""
    owner: Member
    """Of a row of the memory map: the kmem_cache."""
    behind: Member | None
    """Of a row of the memory map: the struct slab, where that lies elsewhere."""
    page: Layout
    tails: Tails
    flag: int | None
    """Bit of PG_slab in page.flags; None where a page type says it."""
    page_type: int | None
    """32-bit page_type value of a slab, exact."""

    def heads(self, rows: Bytes | Structures) -> Mask:
        """Which rows are heads of slabs; before SLAB's pages were compound, all pages of slabs."""
        plain = rows.rows if isinstance(rows, Structures) else rows
        found = self._compiled(plain)
        return self.heads_by_arrays(rows) if found is None else found

    def _compiled(self, rows: Bytes) -> Mask | None:
        """By pagekinds.c; None without it, or where members are not as most kernels have them."""
        loops, flags, link = library(), self.page["flags"], self.tails.link
        kind = self.page.first_of("page_type", "_mapcount")
        if loops is None or link is None or flags.size != 8 or link.size != 8:
            return None
        if self.flag is None and (kind is None or kind.size != 4):
            return None
        used = (flags, link) if kind is None else (flags, link, kind)
        if not all(0 <= m.offset <= rows.shape[1] - m.size for m in used):
            return None
        rows, found = np.ascontiguousarray(rows), np.empty(len(rows), np.bool_)
        loops.crashext_slab_heads(
            *(rows.ctypes.data, rows.shape[1], len(rows), flags.offset),
            *(-1 if self.flag is None else self.flag, 0 if kind is None else kind.offset),
            *(self.page_type or 0, link.offset, found.ctypes.data),
        )
        return found

    def heads_by_arrays(self, rows: Bytes | Structures) -> Mask:
        """The same with numpy."""
        if self.flag is not None:
            is_slab = column(rows, self.page["flags"]) & np.uint64(1 << self.flag) != 0
        else:
            member = self.page.first_of("page_type", "_mapcount")
            assert member is not None
            is_slab = column(rows, member) == self.page_type
        # Most of a large machine is no slab.
        some = np.flatnonzero(is_slab)
        if len(some):
            plain = rows.rows if isinstance(rows, Structures) else rows
            is_slab[some[self.tails.among(plain[some])]] = False
        return np.asarray(is_slab, np.bool_)

    def rows_of(
        self, memory: MemoryMap, space: AddressSpace, addresses: Words
    ) -> tuple[Bytes, Words, Mask]:
        """Rows of the memory map that describe the slabs which direct-map addresses are in.

        Returns the rows, the page frames that they are of, and which were read.
        """
        pfns = (addresses - np.uint64(space.direct.start)) >> np.uint64(space.page_shift)
        rows, ok = memory.rows(pfns)
        is_tail = np.flatnonzero(ok & self.tails.among(rows))
        if len(is_tail):
            maps = memory.maps_of(pfns[is_tail])
            found, known = memory.pfns_of(self.tails.heads(rows[is_tail], maps))
            pfns[is_tail] = np.where(known, found, pfns[is_tail])
            rows[is_tail], ok[is_tail] = memory.rows(pfns[is_tail])
        return rows, pfns, ok

    def described(self, memory: MemoryMap, rows: Bytes, pfns: Words) -> Described:
        """Of slabs that `heads` found, or `rows_of`; the `ok` ones of the latter."""
        page = memory.space.addresses(pfns)
        none = np.zeros(len(rows), np.uint64)
        every = np.ones(len(rows), np.bool_)
        owner, slab = column(rows, self.owner), self.slab
        if self.kind is SlabKind.CHAINED:
            return self._elsewhere(memory, rows, page)
        free = column(rows, slab["freelist"])
        if self.kind is SlabKind.SLAB:
            first, active = column(rows, slab["s_mem"]), column(rows, slab["active"])
            return Described(owner, page, first, active, None, free, none, every)
        inuse, objects = column(rows, slab["inuse"]), column(rows, slab["objects"])
        return Described(owner, page, page, inuse, objects, free, none, every)

    def _elsewhere(self, memory: MemoryMap, rows: Bytes, page: Words) -> Described:
        """A struct slab, at the front of its own slab or in an object of another cache."""
        assert self.behind is not None
        at = column(rows, self.behind)
        found, ok = memory.host.read_many(at, self.slab.size)
        first = column(found, self.slab["s_mem"])
        start = (first - column(found, self.slab["colouroff"])) & ~np.uint64(
            memory.space.page_size - 1
        )
        return Described(
            cache=column(rows, self.owner),
            page=start,
            first=first,
            inuse=column(found, self.slab["inuse"]),
            objects=None,
            free=at + np.uint64(self.slab.size),
            next=column(found, self.slab["free"]),
            # Every page of the slab names its descriptor; one of them is the first.
            ok=ok & (at != 0) & (start <= page),
        )


def slab_kind(host: Host) -> SlabKind:
    """Which allocator this kernel has. Raises `UnknownLayout` where it is none of the three."""
    cache = host.layout("struct kmem_cache")
    if cache is None:
        raise UnknownLayout("this kernel's debug info has no struct kmem_cache")
    if "offset" in cache:
        return SlabKind.SLUB
    if "num" not in cache or "gfporder" not in cache:
        # Removed by 6630e950d532 (6.4).
        raise UnknownLayout("this kernel's slab allocator is SLOB, which keeps no caches apart")
    slab = host.layout("struct slab")
    old = slab is not None and "free" in slab and "s_mem" in slab
    return SlabKind.CHAINED if old else SlabKind.SLAB


_MEMBERS = {
    SlabKind.SLUB: ("inuse", "objects", "freelist"),
    SlabKind.SLAB: ("s_mem", "active", "freelist"),
    SlabKind.CHAINED: ("s_mem", "colouroff", "inuse", "free"),
}


def slab_fields(host: Host) -> SlabFields:
    """Decide this kernel's way to mark and describe slabs. Raises `UnknownLayout`."""
    kind = slab_kind(host)
    page = require(host, "struct page", "flags")
    slab = host.layout("struct slab")
    if slab is None or not ("slab_cache" in slab or kind is SlabKind.CHAINED):
        slab = page
    for member in _MEMBERS[kind]:
        if member not in slab:
            raise UnknownLayout(f"{slab.name} has no member {member} in this kernel")
    owner, behind = _links(page, slab, kind)
    # 46df8e73a4a3 (6.10) turned PG_slab into a page type, whose value VMCOREINFO gives.
    value = host.info().vmcoreinfo.get("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)")
    flag = None
    if value is None:
        flag = host.enumerator("PG_slab")
        if flag is None:
            raise UnknownLayout(
                "neither PG_slab nor PAGE_SLAB_MAPCOUNT_VALUE: slabs cannot be told"
            )
    page_type = None if value is None else int(value) & 0xFFFFFFFF
    return SlabFields(kind, slab, owner, behind, page, tails(host, page), flag, page_type)


def _links(page: Layout, slab: Layout, kind: SlabKind) -> tuple[Member, Member | None]:
    """Where a slab's page names its cache and its struct slab.

    Both have members of their own since 3.6 ("slab: Use page struct fields instead of casting"),
    in the union with lru, out of which 3.8 took slab_cache. Before, page.lru served
    for both (page_set_cache(), page_set_slab() in mm/slab.c, 2.6.32).
    """
    if kind is not SlabKind.CHAINED:
        own = slab.first_of("slab_cache", "slab")  # renamed by the same for SLUB
        return slab["slab_cache"] if own is None else own, None
    lru = page.first_of("lru")
    owner, behind = page.first_of("slab_cache"), page.first_of("slab_page")
    if owner is not None and behind is not None:
        return owner, behind
    if lru is None:
        raise UnknownLayout("struct page has neither slab_page nor lru in this kernel")
    return Member(lru.offset, 8), Member(lru.offset + 8, 8)

"""Every slab of every cache, full ones included: one pass over the memory map.

SLUB keeps no list of full slabs, so the memory map is the only place that knows them all. On a
large machine the pass is sampled: blocks in random order until there is enough.

Sources: mm/slab.h struct slab (5.17+, d122019bf061), struct page before; drgn's PageSlab.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Bytes, Host, Layout, Mask, ReadFault
from crashext.kernel.access import UnknownLayout, Words, column, require, u64
from crashext.kernel.addresses import PAGE_SHIFT, PAGE_SIZE, AddressSpace
from crashext.kernel.compound import Tails, tails
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.slab.caches import Caches
from crashext.progress import Progress

MAP_BUDGET = 256 << 20  # bytes of memory map read before the pass becomes a sample (16 GiB of RAM)
_MAP_LIMIT = 4 * MAP_BUDGET  # ... and at most this much in search of a rare cache's slabs
MAX_SLAB_BYTES = PAGE_SIZE << 10
_KFENCE_POOL = 2 << 20  # (255 + 1) * 2 pages, the default CONFIG_KFENCE_NUM_OBJECTS


@dataclass(frozen=True)
class SlabFields:
    """Where a memory-map row keeps what SLUB knows of a slab, on this kernel."""

    slab: Layout
    page: Layout
    tails: Tails
    flag: int | None
    """Bit of PG_slab in page.flags; None where a page type says it."""
    page_type: int | None
    """32-bit page_type value of a slab, exact."""

    def heads(self, rows: Bytes) -> Mask:
        """Which rows are heads of slabs."""
        if self.flag is not None:
            is_slab = column(rows, self.page["flags"]) >> np.uint64(self.flag) & np.uint64(1) == 1
        else:
            member = self.page.first_of("page_type", "_mapcount")
            assert member is not None
            is_slab = column(rows, member) == self.page_type
        return np.asarray(is_slab & ~self.tails.among(rows), np.bool_)


def slab_fields(host: Host) -> SlabFields:
    """Decide this kernel's way to mark slabs. Raises `UnknownLayout`."""
    page = require(host, "struct page", "flags")
    slab = host.layout("struct slab")
    if slab is None or "slab_cache" not in slab:
        slab = require(host, "struct page", "slab_cache")
    for member in ("inuse", "objects", "freelist"):
        if member not in slab:
            raise UnknownLayout(f"{slab.name} has no member {member} in this kernel")
    # 46df8e73a4a3 (6.10) turned PG_slab into a page type, whose value VMCOREINFO gives.
    value = host.info().vmcoreinfo.get("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)")
    if value is not None:
        return SlabFields(slab, page, tails(host, page), None, int(value) & 0xFFFFFFFF)
    flag = host.enumerator("PG_slab")
    if flag is None:
        raise UnknownLayout("neither PG_slab nor PAGE_SLAB_MAPCOUNT_VALUE: slabs cannot be told")
    return SlabFields(slab, page, tails(host, page), flag, None)


@dataclass(frozen=True)
class SlabIndex:
    """The slabs that the pass found, sorted by address; one array element a slab."""

    address: Words
    """Direct-map address of the slab's first byte."""
    cache: np.ndarray[tuple[int], np.dtype[np.uint16]]
    """Index into `Caches.all`."""
    inuse: np.ndarray[tuple[int], np.dtype[np.uint16]]
    objects: np.ndarray[tuple[int], np.dtype[np.uint16]]
    complete: bool
    """Every page frame was looked at; else this is a sample of the memory map."""
    scanned: float
    """Share of the memory map that was looked at, 0 to 1."""
    missing: int
    """Page frames whose struct page is not in the dump."""
    unknown: int
    """Slabs whose cache is not in `slab_caches`."""
    impossible: int
    """Slabs left out because their counters cannot be true."""

    def rows_of(self, cache_index: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        return np.flatnonzero(self.cache == cache_index)

    def locate(
        self, addresses: Words, caches: Caches
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Row of the slab that holds each address, -1 where none does."""
        if not len(self.address):
            return np.full(len(addresses), -1, np.int64)
        row = np.searchsorted(self.address, addresses, side="right").astype(np.int64) - 1
        at = np.maximum(row, 0)
        sizes = np.array([c.slot_size for c in caches.all], np.uint64)
        length = self.objects[at].astype(np.uint64) * sizes[self.cache[at]]
        outside = (row < 0) | (addresses - self.address[at] >= length)
        return np.where(outside, -1, row)


def find_slabs(
    host: Host,
    memory: MemoryMap,
    caches: Caches,
    wanted: dict[int, int],
    seed: int,
    progress: Progress,
    budget: int = MAP_BUDGET,
) -> SlabIndex:
    """One pass over the memory map.

    `wanted` maps cache indices to the number of slabs that would be enough; it matters only
    where the whole map exceeds `budget` bytes and the pass stops early.
    """
    fields = slab_fields(host)
    total = len(memory.block_pfns)
    order = np.arange(total)
    per_block = _block_bytes(memory)
    if not fits(memory, budget):
        order = np.random.default_rng(seed).permutation(total)
    found: list[tuple[Words, ...]] = []
    have = dict.fromkeys(wanted, 0)
    missing = unknown = impossible = done = pages = 0
    for block in memory.read(order):
        enough = all(have[c] >= n for c, n in wanted.items())
        if done * per_block >= (budget if enough else budget * (_MAP_LIMIT // MAP_BUDGET)):
            break
        done += 1
        pages += len(block.rows)
        missing += int((~block.ok).sum())
        good = np.flatnonzero(fields.heads(block.rows) & block.ok)
        slabs, strangers, liars = _decode(
            fields, memory.space, caches, block.rows, good, block.first_pfn
        )
        unknown += strangers
        impossible += liars
        found.append(slabs)
        if len(order) != total or done < total:
            counts = np.bincount(slabs[1].astype(np.intp), minlength=1)
            for c in wanted:
                have[c] += int(counts[c]) if c < len(counts) else 0
        progress("memory map", done, total)
    columns = [
        np.concatenate([f[i] for f in found]) if found else np.zeros(0, np.uint64) for i in range(4)
    ]
    keep = _outside_kfence(host, columns[0])
    by_address = np.argsort(columns[0][keep], kind="stable")
    address, cache, inuse, objects = (c[keep][by_address] for c in columns)
    return SlabIndex(
        address,
        cache.astype(np.uint16),
        inuse.astype(np.uint16),
        objects.astype(np.uint16),
        complete=done == total,
        scanned=pages / memory.pages if memory.pages else 0.0,
        missing=missing,
        unknown=unknown,
        impossible=impossible,
    )


def fits(memory: MemoryMap, budget: int) -> bool:
    """Whether the pass reads the whole map, so that neither the seed nor what is wanted matters."""
    return len(memory.block_pfns) * _block_bytes(memory) <= budget


def _block_bytes(memory: MemoryMap) -> int:
    return int(memory.block_pages.max(initial=1)) * memory.page_size


def _decode(
    fields: SlabFields,
    space: AddressSpace,
    caches: Caches,
    rows: Bytes,
    good: np.ndarray[tuple[int], np.dtype[np.intp]],
    first_pfn: int,
) -> tuple[tuple[Words, ...], int, int]:
    """(address, cache, inuse, objects) of the slab heads `good`, and how many were left out."""
    rows = rows[good]
    pointers = column(rows, fields.slab["slab_cache"])
    at = np.minimum(np.searchsorted(caches.sorted_addresses, pointers), len(caches.all) - 1)
    known = caches.sorted_addresses[at] == pointers
    index = caches.sorted_index[at]
    inuse = column(rows, fields.slab["inuse"])
    objects = column(rows, fields.slab["objects"])
    sizes = np.array([c.slot_size for c in caches.all], np.uint64)[index]
    possible = (objects > 0) & (inuse <= objects) & (objects * sizes <= MAX_SLAB_BYTES)
    keep = known & possible
    address = space.addresses(np.uint64(first_pfn) + good.astype(np.uint64))
    columns = (address[keep], index[keep].astype(np.uint64), inuse[keep], objects[keep])
    return columns, int((~known).sum()), int((known & ~possible).sum())


def _outside_kfence(host: Host, addresses: Words) -> Mask:
    """KFENCE's pool marks its pages as slabs of the caches it serves; they hold no slab grid."""
    symbol = host.address_of("__kfence_pool")
    try:
        pool = u64(host, symbol) if symbol else 0
    except ReadFault:
        pool = 0
    if not pool:
        return np.ones(len(addresses), np.bool_)
    return np.asarray(addresses - np.uint64(pool) >= np.uint64(_KFENCE_POOL), np.bool_)


def page_span(size: int) -> int:
    """Pages that `size` bytes touch when they start on a page."""
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT

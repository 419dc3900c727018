"""Every slab of every cache, full ones included: one pass over the memory map.

SLUB keeps no list of full slabs, so the memory map is the only place that knows them all; SLAB's
three lists of each node are all there, but cannot be sampled. On a large machine the pass is:
blocks in random order until there is enough.

Source: drgn's PageSlab. What a slab's descriptor says is for `descriptors` to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import among
from crashext.hosts.base import Bytes, Host, Mask, ReadFault
from crashext.kernel.access import Structures, Words, u64
from crashext.kernel.memmap import Block, MemoryMap, Order
from crashext.kernel.slab.caches import Caches
from crashext.kernel.slab.descriptors import SlabFields, SlabKind, slab_fields
from crashext.kernel.slab.thinning import Collector, Crowd
from crashext.progress import Progress

MAP_BUDGET = 256 << 20  # bytes of memory map read before the pass becomes a sample (16 GiB of RAM)
_MAP_LIMIT = 4 * MAP_BUDGET  # ... and at most this much in search of a rare cache's slabs
MAX_SLAB_BYTES = 4 << 20
_CACHE = 3  # of the columns that the pass collects
_KFENCE_POOL = 2 << 20  # (255 + 1) * 2 pages, the default CONFIG_KFENCE_NUM_OBJECTS


@dataclass(frozen=True)
class SlabIndex:
    """The slabs that the pass found, sorted by address; one array element a slab."""

    address: Words
    """Direct-map address of the slab's first slot."""
    page: Words
    """Direct-map address of its first page: SLUB's first slot is there, SLAB's somewhere behind."""
    pages: np.ndarray[tuple[int], np.dtype[np.uint16]]
    """How many pages it has, those behind the last slot left out where nothing is kept there."""
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
    crowds: Mapping[int, Crowd] = field(default_factory=dict)
    """Caches that have too many slabs to keep them all: those in the index were drawn at random.
    Of a sample of the memory map, what was seen of them."""

    def rows_of(self, cache_index: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        order, starts = self._by_cache
        if not 0 <= cache_index < len(starts) - 1:
            return np.zeros(0, np.intp)
        return order[starts[cache_index] : starts[cache_index + 1]].astype(np.intp)

    @cached_property
    def _by_cache(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Rows in the order of their caches, and where in it each cache's begin."""
        counts = np.bincount(self.cache)
        order = np.argsort(self.cache, kind="stable").astype(np.int32)
        return order, np.append(0, np.cumsum(counts))

    def has(self, addresses: Words) -> Mask:
        """Which addresses are those of slabs: uint64[n] -> bool[n]."""
        if not len(self.address):
            return np.zeros(len(addresses), np.bool_)
        at = np.minimum(np.searchsorted(self.address, addresses), len(self.address) - 1)
        return np.asarray(self.address[at] == addresses, np.bool_)

    def locate(
        self, addresses: Words, caches: Caches
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Row of the slab that holds each address, -1 where none does."""
        if not len(self.address):
            return np.full(len(addresses), -1, np.int64)
        row = np.searchsorted(self.address, addresses, side="right").astype(np.int64) - 1
        at = np.maximum(row, 0)
        length = self.objects[at].astype(np.uint64) * caches.slot_sizes[self.cache[at]]
        outside = (row < 0) | (addresses - self.address[at] >= length)
        return np.where(outside, -1, row)


class Along(Protocol):
    """Somebody else who wants to see blocks of the memory map."""

    @property
    def order(self) -> Order:
        """Which, and in which order."""
        ...

    def take(self, block: Block) -> Order:
        """Look at one; returns the rows that were read and head slabs."""
        ...


def find_slabs(
    host: Host,
    memory: MemoryMap,
    caches: Caches,
    wanted: dict[int, int],
    seed: int,
    progress: Progress,
    budget: int = MAP_BUDGET,
    along: Along | None = None,
) -> SlabIndex:
    """One pass over the memory map.

    `wanted` maps cache indices to the number of slabs that would be enough; it matters only
    where the whole map exceeds `budget` bytes and the pass stops early. `along` is shown the
    blocks where they are the very ones that it asks for.
    """
    fields = slab_fields(host)
    total = len(memory.block_pfns)
    per_block = _block_bytes(memory)
    whole = fits(memory, budget)
    order = (
        _worth(fields, memory, seed) if whole else np.random.default_rng(seed).permutation(total)
    )
    if along is not None and not (whole and np.array_equal(order, along.order)):
        along = None
    found = Collector(len(caches.all), seed)
    have = dict.fromkeys(wanted, 0)
    missing = unknown = impossible = done = pages = 0
    for block in memory.read(order, together=whole):
        enough = all(have[c] >= n for c, n in wanted.items())
        if done * per_block >= (budget if enough else budget * (_MAP_LIMIT // MAP_BUDGET)):
            break
        done += block.number
        pages += len(block.rows)
        missing += int((~block.ok).sum())
        good = _heads(fields, block) if along is None else along.take(block)
        if len(good):  # most of a large machine is no slab
            pfns = np.uint64(block.first_pfn) + good.astype(np.uint64)
            slabs, strangers, liars = _decode(fields, memory, caches, block.rows[good], pfns)
            unknown += strangers
            impossible += liars
            found.add(slabs)
        if not whole and len(good):
            counts = np.bincount(slabs[_CACHE].astype(np.intp), minlength=1)
            for c in wanted:
                have[c] += int(counts[c]) if c < len(counts) else 0
        progress("memory map", done, len(order))
    columns = found.columns()
    keep = _outside_kfence(host, columns[0])
    by_address = np.argsort(columns[0][keep], kind="stable")
    address, page, count, cache, inuse, objects = (c[keep][by_address] for c in columns)
    if np.array_equal(page, address):
        page = address  # SLUB: kept once
    return SlabIndex(
        address,
        page,
        count,
        cache,
        inuse,
        objects,
        complete=done == len(order),
        scanned=1.0 if whole else pages / max(1, memory.pages),
        missing=missing,
        unknown=unknown,
        impossible=impossible,
        crowds=found.crowds(),
    )


def _heads(fields: SlabFields, block: Block) -> Order:
    return np.flatnonzero(fields.heads(Structures(block.rows)) & block.ok)


def _worth(fields: SlabFields, memory: MemoryMap, seed: int) -> Order:
    """The blocks to read for all slabs: where the dump leaves most memory out, and a sample of
    that has no slab, those of what it holds."""
    order, some, _ = memory.parts(seed)
    for block in memory.read(some):
        if not block.ok.all() or len(fields.heads(block.rows).nonzero()[0]):
            return np.arange(len(memory.block_pfns))
    return order


def fits(memory: MemoryMap, budget: int) -> bool:
    """Whether the pass reads the whole map, so that neither the seed nor what is wanted matters."""
    return len(memory.block_pfns) * _block_bytes(memory) <= budget


def _block_bytes(memory: MemoryMap) -> int:
    return int(memory.block_pages.max(initial=1)) * memory.page_size


def slabs_at(host: Host, memory: MemoryMap, caches: Caches, addresses: Words) -> SlabIndex:
    """The slabs that direct-map addresses are in, whatever a pass over the memory map kept."""
    fields = slab_fields(host)
    rows, pfns, ok = fields.rows_of(memory, memory.space, addresses)
    some = np.flatnonzero(ok)
    some = some[fields.heads(rows[some])]
    pfns, first = np.unique(pfns[some], return_index=True)
    columns, unknown, impossible = _decode(fields, memory, caches, rows[some[first]], pfns)
    order = np.argsort(columns[0], kind="stable")
    types = np.uint64, np.uint64, np.uint16, np.uint16, np.uint16, np.uint16
    address, page, pages, cache, inuse, objects = (
        c[order].astype(t) for c, t in zip(columns, types, strict=True)
    )
    return SlabIndex(
        address, page, pages, cache, inuse, objects, False, 0.0, 0, unknown, impossible
    )


def joined(one: SlabIndex, other: SlabIndex) -> SlabIndex:
    """The slabs of either, each once; what is said of the whole is what `one` says."""
    known = among(other.address, one.address)
    address = np.concatenate([one.address, other.address[~known]])
    order = np.argsort(address, kind="stable")

    def both(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([mine, theirs[~known]])[order]

    return replace(
        one,
        address=address[order],
        page=both(one.page, other.page),
        pages=both(one.pages, other.pages),
        cache=both(one.cache, other.cache),
        inuse=both(one.inuse, other.inuse),
        objects=both(one.objects, other.objects),
    )


def _decode(
    fields: SlabFields, memory: MemoryMap, caches: Caches, rows: Bytes, pfns: Words
) -> tuple[tuple[Words, ...], int, int]:
    """(address, page, pages, cache, inuse, objects) of slabs by their rows of the memory map, and
    how many were left out: of unknown caches, and impossible ones."""
    told = fields.described(memory, rows, pfns)
    at = np.minimum(np.searchsorted(caches.sorted_addresses, told.cache), len(caches.all) - 1)
    known = caches.sorted_addresses[at] == told.cache
    index = caches.sorted_index[at].astype(np.intp)
    sizes, objects, orders = caches.usual[index].T
    if told.objects is not None:
        objects = told.objects
    lead = told.first - told.page  # huge where the first slot is before the page
    possible = told.ok & (objects > 0) & (told.inuse <= objects)
    possible &= objects * sizes <= MAX_SLAB_BYTES
    pages = page_spans(told.first, objects * sizes, memory.space.page_size)
    if fields.kind is not SlabKind.SLUB:
        pages = np.uint64(1) << orders
        room = pages << np.uint64(memory.space.page_shift)
        possible &= (lead < room) & (lead + objects * sizes <= room)
    # Where each of a slab's pages names its descriptor, the first one speaks for all.
    own = told.page == memory.space.addresses(pfns)
    keep = known & possible & own
    columns = (told.first, told.page, pages, index.astype(np.uint64), told.inuse, objects)
    strangers, liars = int((~known).sum()), int((known & ~possible).sum())
    return tuple(c[keep] for c in columns), strangers, liars


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


def page_spans(addresses: Words, sizes: Words, page: int) -> Words:
    """Pages of so many bytes that some bytes touch: uint64[n], uint64[n] -> uint64[n]."""
    before = addresses & np.uint64(page - 1)
    spans: Words = (before + sizes + np.uint64(page - 1)) // np.uint64(page)
    return spans

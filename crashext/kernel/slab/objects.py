"""The objects of some slabs: their bytes, and whether each is allocated or free.

It joins the slab's own list of free slots with those of the CPUs and the sheaves or array caches,
and says of every slot which of the four things it is. Damage costs the slab it is in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct, union
from crashext.hosts.base import Bytes, Host, Mask
from crashext.kernel.access import Words
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.cpulists import CpuLists, cpu_lists
from crashext.kernel.slab.descriptors import Described, SlabFields, SlabKind, slab_fields
from crashext.kernel.slab.freelist import Encoding, Proof, Walk, prove_encoding, walk
from crashext.kernel.slab.indexed import chained, numbered
from crashext.kernel.slab.slabs import MAX_SLAB_BYTES, SlabIndex, page_spans

_BATCH_BYTES = 16 << 20
_PROOF_SLABS = 8  # of one cache


class State(enum.IntEnum):
    """What a slot is."""

    UNREADABLE = 0
    ALLOCATED = 1
    FREE = 2
    UNKNOWN = 3
    """In a slab whose freelist is broken, and not on the sound part of it."""


@dataclass(frozen=True)
class SlabBatch:
    """Some slabs of one cache, all with the same number of objects."""

    base: Words
    """uint64[n]: first slot of each slab."""
    address: Words
    """uint64[n, objects]: each object, red zone pad passed over."""
    content: Bytes
    """uint8[n, objects, object_size]"""
    state: NDArray[np.uint8]
    """uint8[n, objects] of `State`."""
    broken: Mask
    """bool[n]: slabs that are all there and whose freelist is broken."""
    mismatched: Mask
    """bool[n]: slabs whose freelist is sound but not as long as the slab's counters say."""


class SlabReader:
    """Reads slabs of one cache."""

    def __init__(
        self,
        host: Host,
        memory: MemoryMap,
        space: AddressSpace,
        cache: SlabCache,
        encoding: Callable[[], Encoding | None],
    ) -> None:
        """`encoding` tells how this kernel's freelists are encoded; asked when slabs are read.

        Where it does not know, these slabs' own lists decide.
        """
        self._host, self._memory, self._space, self.cache = host, memory, space, cache
        self._fields: SlabFields = slab_fields(host)
        self._cpu: CpuLists = cpu_lists(host, cache, space.percpu_offsets)
        self._encoding = encoding
        self.cpu_faults = self._cpu.faults

    @property
    def sheaved(self) -> Words:
        """Addresses of free objects that sheaves and barns, or SLAB's array caches, hold."""
        return self._cpu.sheaved

    @property
    def sheaves(self) -> Words:
        """Addresses of the cache's sheaves, empty ones too."""
        return self._cpu.sheaves

    @property
    def arrays(self) -> Words:
        """Addresses of the cache's array caches (SLAB), empty ones too."""
        return self._cpu.arrays

    def read(self, index: SlabIndex, rows: NDArray[np.intp]) -> Iterator[SlabBatch]:
        """Read the slabs `rows` of `index`, in batches of bounded memory, in address order."""
        rows = np.sort(rows)
        for objects in distinct(index.objects[rows]).tolist():
            chosen = rows[index.objects[rows] == objects]
            per_batch = max(1, _BATCH_BYTES // (self.cache.slot_size * objects))
            for start in range(0, len(chosen), per_batch):
                yield self._batch(index.address[chosen[start : start + per_batch]], objects)

    def read_one(self, base: int) -> SlabBatch | None:
        """The slab whose slots begin at `base`, None where its struct page is not in the dump."""
        bases = np.array([base], np.uint64)
        rows, pfns, ok = self._rows_of(bases)
        counts = self._fields.described(self._memory, rows, pfns).objects
        objects = self.cache.objects_per_slab if counts is None else int(counts[0])
        if not ok[0] or not 0 < objects * self.cache.slot_size <= MAX_SLAB_BYTES:
            return None
        return self._batch(bases, objects)

    def _rows_of(self, bases: Words) -> tuple[Bytes, Words, Mask]:
        return self._fields.rows_of(self._memory, self._space, bases)

    def held_back(self, bases: Words) -> int:
        """Slots of slabs that the slabs count as in use, and that are free on CPUs' lists."""
        rows, pfns, ok = self._rows_of(bases)
        inuse = self._fields.described(self._memory, rows, pfns).inuse
        batches = [self.read_one(base) for base in bases[ok].tolist()]
        allocated = sum(int((b.state == State.ALLOCATED).sum()) for b in batches if b is not None)
        known = [b is not None for b in batches]
        return int(inuse[ok][known].sum()) - allocated

    def cpu_slab_rows(self, index: SlabIndex) -> NDArray[np.intp]:
        """Rows of the slabs that CPUs allocate from at the moment."""
        bases = self.cpu_bases()
        rows = np.searchsorted(index.address, bases)
        inside = rows < len(index.address)
        rows = rows[inside]
        return distinct(rows[index.address[rows] == bases[inside]])

    def cpu_bases(self) -> Words:
        """Direct-map addresses of the CPUs' current slabs (a slab's map entry is its page's)."""
        pfns, known = self._memory.pfns_of(self._cpu.slabs)
        return np.where(known, self._space.addresses(pfns), np.uint64(0))

    def _batch(self, bases: Words, objects: int) -> SlabBatch:
        cache, size = self.cache, self.cache.slot_size
        data, readable = self._slab_bytes(bases, objects)
        rows, pfns, rows_ok = self._rows_of(bases)
        told = self._fields.described(self._memory, rows, pfns)
        on_cpu = np.zeros(len(bases), np.bool_)
        if self._fields.kind is SlabKind.SLUB:
            cpu_heads, on_cpu = self._cpu_heads(bases)
            own, local = self._freelists(
                data, readable, bases, np.where(rows_ok, told.free, np.uint64(0)), cpu_heads
            )
            free, broken = own.free | local.free, own.broken | local.broken
        else:
            own = self._slot_numbers(told, objects)
            free, broken = own.free.copy(), own.broken | (told.first != bases) | ~told.ok
        address = (
            bases[:, None]
            + np.uint64(cache.red_left_pad)
            + np.arange(objects, dtype=np.uint64)[None] * np.uint64(size)
        )
        free |= np.isin(address, self._cpu.sheaved)
        broken |= ~rows_ok
        # A CPU's current slab counts every slot as in use; so do slots that went to sheaves.
        expected = objects - told.inuse.astype(np.int64)
        mismatched = ~broken & ~on_cpu & (own.free.sum(axis=1) != expected)
        state = np.full((len(bases), objects), State.ALLOCATED, np.uint8)
        state[broken] = State.UNKNOWN
        state[free] = State.FREE
        state[~readable] = State.UNREADABLE
        content = data.reshape(len(bases), objects, size)[
            :, :, cache.red_left_pad : cache.red_left_pad + cache.object_size
        ]
        # A list that runs into a missing page is not damaged: its slots say what is lost.
        damaged = broken & readable.all(axis=1)
        return SlabBatch(bases, address, content, state, damaged, mismatched)

    def _freelists(
        self, data: Bytes, readable: Mask, bases: Words, heads: Words, cpu_heads: Words
    ) -> tuple[Walk, Walk]:
        """SLUB: the slabs' own freelists and those of the CPUs."""
        encoding = self._encoding()
        if encoding is None:
            encoding = prove_encoding(self.cache, data, readable, bases, heads).encoding
        own, local = (
            walk(self.cache, encoding, data, readable, bases, h) for h in (heads, cpu_heads)
        )
        return own, local

    def _slot_numbers(self, told: Described, objects: int) -> Walk:
        """SLAB: by the numbers of the free slots."""
        host, fields = self._host, self._fields
        if fields.kind is SlabKind.CHAINED:
            return chained(host, told.free, told.next, told.inuse, objects)
        return numbered(host, told.free, told.inuse, objects, self.cache.index_width)

    def prove(self, index: SlabIndex, rows: NDArray[np.intp]) -> Proof:
        """What a few of the slabs `rows`, ascending, say about the encoding: those with a
        freelist."""
        partial = rows[index.inuse[rows] != index.objects[rows]][:_PROOF_SLABS]
        on_cpu = self.cpu_slab_rows(index)
        # Not intersect1d(), which sorts a cache of millions of slabs.
        at = np.searchsorted(rows, on_cpu)
        mine = on_cpu[at < len(rows)][rows[at[at < len(rows)]] == on_cpu[at < len(rows)]]
        rows = union(partial, mine)
        proof = Proof()
        for objects in distinct(index.objects[rows]).tolist():
            bases = index.address[rows[index.objects[rows] == objects]]
            data, readable = self._slab_bytes(bases, objects)
            known, pfns, ok = self._rows_of(bases)
            told = self._fields.described(self._memory, known, pfns)
            own = np.where(ok, told.free, np.uint64(0))
            for heads in (own, self._cpu_heads(bases)[0]):
                proof += prove_encoding(self.cache, data, readable, bases, heads)
        return proof

    def _slab_bytes(self, bases: Words, objects: int) -> tuple[Bytes, Mask]:
        """Whole slabs, page by page where one has a hole: bytes, and which slots are all there."""
        size = self.cache.slot_size
        length = size * objects
        data, ok = self._host.read_many(bases, length)
        readable = np.repeat(ok[:, None], objects, axis=1)
        holed = np.flatnonzero(~ok)
        if not len(holed):
            return data, readable
        page = self._space.page_size
        lead = (bases[holed] & np.uint64(page - 1)).astype(np.int64)
        pages = int(page_spans(bases[holed], np.full(len(holed), length, np.uint64), page).max())
        start = bases[holed] & ~np.uint64(page - 1)
        where = start[:, None] + np.arange(pages, dtype=np.uint64)[None] * np.uint64(page)
        pieces, pieces_ok = self._host.read_many(where.reshape(-1), page)
        inside = lead[:, None] + np.arange(length)[None]
        data[holed] = np.take_along_axis(pieces.reshape(len(holed), -1), inside, axis=1)
        there = pieces_ok.reshape(len(holed), pages)
        slot = lead[:, None] + np.arange(objects)[None] * size
        first, last = slot // page, (slot + size - 1) // page
        before = np.concatenate(
            [np.zeros((len(holed), 1), np.int64), np.cumsum(~there, axis=1)], axis=1
        )
        readable[holed] = np.take_along_axis(before, last + 1, axis=1) == np.take_along_axis(
            before, first, axis=1
        )
        return data, readable

    def _cpu_heads(self, bases: Words) -> tuple[Words, Mask]:
        heads = np.zeros(len(bases), np.uint64)
        on_cpu = np.zeros(len(bases), np.bool_)
        for base, head in zip(self.cpu_bases(), self._cpu.heads, strict=True):
            at = np.searchsorted(bases, base)
            if at < len(bases) and bases[at] == base:
                heads[at], on_cpu[at] = head, True
        return heads, on_cpu

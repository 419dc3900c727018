"""The objects of some slabs: their bytes, and whether each is allocated or free.

It joins the slab's own freelist with those of the CPUs and the sheaves, and says of every slot
which of the four things it is. Damage costs the slab it is in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes, Host, Mask
from crashext.kernel.access import Words, column
from crashext.kernel.addresses import PAGE_SHIFT, PAGE_SIZE, AddressSpace
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.cpulists import CpuLists, cpu_lists
from crashext.kernel.slab.freelist import Encoding, Proof, prove_encoding, walk
from crashext.kernel.slab.slabs import MAX_SLAB_BYTES, SlabFields, SlabIndex, page_span, slab_fields

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
    """uint64[n]: first byte of each slab."""
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
        """Addresses of free objects that sheaves and barns hold."""
        return self._cpu.sheaved

    @property
    def sheaves(self) -> Words:
        """Addresses of the cache's sheaves, empty ones too."""
        return self._cpu.sheaves

    def read(self, index: SlabIndex, rows: NDArray[np.intp]) -> Iterator[SlabBatch]:
        """Read the slabs `rows` of `index`, in batches of bounded memory, in address order."""
        rows = np.sort(rows)
        for objects in np.unique(index.objects[rows]).tolist():
            chosen = rows[index.objects[rows] == objects]
            per_batch = max(1, _BATCH_BYTES // (self.cache.slot_size * objects))
            for start in range(0, len(chosen), per_batch):
                yield self._batch(index.address[chosen[start : start + per_batch]], objects)

    def read_one(self, base: int) -> SlabBatch | None:
        """The slab that begins at `base`, None where its struct page is not in the dump."""
        bases = np.array([base], np.uint64)
        rows, ok = self._memory.rows(
            (bases - np.uint64(self._space.direct.start)) >> np.uint64(PAGE_SHIFT)
        )
        objects = int(column(rows, self._fields.slab["objects"])[0])
        if not ok[0] or not 0 < objects * self.cache.slot_size <= MAX_SLAB_BYTES:
            return None
        return self._batch(bases, objects)

    def cpu_slab_rows(self, index: SlabIndex) -> NDArray[np.intp]:
        """Rows of the slabs that CPUs allocate from at the moment."""
        bases = self._cpu_bases()
        rows = np.searchsorted(index.address, bases)
        inside = rows < len(index.address)
        rows = rows[inside]
        return np.unique(rows[index.address[rows] == bases[inside]])

    def _cpu_bases(self) -> Words:
        """Direct-map addresses of the CPUs' current slabs (a slab's map entry is its page's)."""
        pfns, known = self._memory.pfns_of(self._cpu.slabs)
        return np.where(known, self._space.addresses(pfns), np.uint64(0))

    def _batch(self, bases: Words, objects: int) -> SlabBatch:
        cache, size = self.cache, self.cache.slot_size
        data, readable = self._slab_bytes(bases, objects)
        rows, rows_ok = self._memory.rows(
            (bases - np.uint64(self._space.direct.start)) >> np.uint64(PAGE_SHIFT)
        )
        heads = np.where(rows_ok, column(rows, self._fields.slab["freelist"]), np.uint64(0))
        inuse = column(rows, self._fields.slab["inuse"])
        cpu_heads, on_cpu = self._cpu_heads(bases)
        encoding = self._encoding()
        if encoding is None:
            encoding = prove_encoding(cache, data, readable, bases, heads).encoding
        own = walk(cache, encoding, data, readable, bases, heads)
        local = walk(cache, encoding, data, readable, bases, cpu_heads)
        address = (
            bases[:, None]
            + np.uint64(cache.red_left_pad)
            + np.arange(objects, dtype=np.uint64)[None] * np.uint64(size)
        )
        sheaved = np.isin(address, self._cpu.sheaved)
        free = own.free | local.free | sheaved
        broken = own.broken | local.broken | ~rows_ok
        # A CPU's current slab counts every slot as in use; so do slots that went to sheaves.
        expected = objects - inuse.astype(np.int64)
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

    def prove(self, index: SlabIndex, rows: NDArray[np.intp]) -> Proof:
        """What a few of the slabs `rows` say about the encoding: those with a freelist."""
        partial = rows[index.inuse[rows] != index.objects[rows]][:_PROOF_SLABS]
        rows = np.union1d(partial, np.intersect1d(rows, self.cpu_slab_rows(index)))
        proof = Proof()
        for objects in np.unique(index.objects[rows]).tolist():
            bases = index.address[rows[index.objects[rows] == objects]]
            data, readable = self._slab_bytes(bases, objects)
            known, ok = self._memory.rows(
                (bases - np.uint64(self._space.direct.start)) >> np.uint64(PAGE_SHIFT)
            )
            own = np.where(ok, column(known, self._fields.slab["freelist"]), np.uint64(0))
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
        pages = page_span(length)
        where = bases[holed, None] + np.arange(pages, dtype=np.uint64)[None] * np.uint64(PAGE_SIZE)
        pieces, pieces_ok = self._host.read_many(where.reshape(-1), PAGE_SIZE)
        data[holed] = pieces.reshape(len(holed), -1)[:, :length]
        there = pieces_ok.reshape(len(holed), pages)
        first = np.arange(objects) * size // PAGE_SIZE
        last = ((np.arange(objects) + 1) * size - 1) // PAGE_SIZE
        before = np.concatenate(
            [np.zeros((len(holed), 1), np.int64), np.cumsum(~there, axis=1)], axis=1
        )
        readable[holed] = before[:, last + 1] == before[:, first]
        return data, readable

    def _cpu_heads(self, bases: Words) -> tuple[Words, Mask]:
        heads = np.zeros(len(bases), np.uint64)
        on_cpu = np.zeros(len(bases), np.bool_)
        for base, head in zip(self._cpu_bases(), self._cpu.heads, strict=True):
            at = np.searchsorted(bases, base)
            if at < len(bases) and bases[at] == base:
                heads[at], on_cpu[at] = head, True
        return heads, on_cpu

"""Which slab, and so which cache, a pointer points into; for many pointers at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host
from crashext.kernel.access import Words
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.slab.caches import Caches
from crashext.kernel.slab.descriptors import slab_fields
from crashext.kernel.slab.slabs import SlabIndex


@dataclass(frozen=True)
class SlabTargets:
    """Where pointers lead. Arrays have one element per pointer."""

    cache: NDArray[np.int64]
    """Index into `Caches.all`; -1: not into a slab."""
    base: Words
    """First slot of the slab."""
    offset: Words
    """From the start of the object; past `object_size` it is metadata or padding."""

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.cache >= 0


class SlabPointers:
    """Resolves pointers by the slab index, or, where that is a sample, by their struct pages."""

    def __init__(
        self, host: Host, space: AddressSpace, memory: MemoryMap, caches: Caches, index: SlabIndex
    ) -> None:
        self._memory, self._space, self._caches, self._index = memory, space, caches, index
        self._fields = slab_fields(host)
        self._sizes = np.array([c.slot_size for c in caches.all], np.uint64)
        self._pads = np.array([c.red_left_pad for c in caches.all], np.uint64)

    def resolve(self, values: Words) -> SlabTargets:
        """Resolve uint64[n] of any values; those outside the direct map are simply unknown."""
        cache = np.full(len(values), -1, np.int64)
        base = np.zeros(len(values), np.uint64)
        row = self._index.locate(values, self._caches)
        hit = row >= 0
        cache[hit] = self._index.cache[row[hit]]
        base[hit] = self._index.address[row[hit]]
        if not self._index.complete or self._index.crowds:
            rest = ~hit & self._space.direct.holds(values)
            cache[rest], base[rest] = self._by_struct_page(values[rest])
        at = np.maximum(cache, 0)
        # A pointer into the left pad of the first slot belongs, like any pad, after an object.
        offset = (values - base + self._sizes[at] - self._pads[at]) % self._sizes[at]
        return SlabTargets(cache, base, np.where(cache >= 0, offset, np.uint64(0)))

    def _by_struct_page(self, values: Words) -> tuple[NDArray[np.int64], Words]:
        pfns, inverse = np.unique(
            (values - np.uint64(self._space.direct.start)) >> np.uint64(self._space.page_shift),
            return_inverse=True,
        )
        rows, heads, ok = self._fields.rows_of(
            self._memory, self._space, self._space.addresses(pfns)
        )
        slab = ok & self._fields.heads(rows)
        told = self._fields.described(self._memory, rows, heads)
        slab &= told.ok
        pointers = told.cache
        addresses = self._caches.sorted_addresses
        at = np.minimum(np.searchsorted(addresses, pointers), len(addresses) - 1)
        slab &= addresses[at] == pointers
        cache = np.where(slab, self._caches.sorted_index[at].astype(np.int64), -1)
        return cache[inverse], told.first[inverse]

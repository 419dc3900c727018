"""How many objects of a cache exist and are allocated, as the kernel's own counters have it.

Every slab of the index knows how many of its slots are in use; only what CPUs and sheaves keep
back must be taken off. Where the index is a sample, the node counters give the totals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.kernel.slab.view import KernelView


@dataclass(frozen=True)
class Usage:
    """Counts over the slabs of the index that belong to one cache."""

    slabs: int
    """Slabs that exist: counted, or by the node counters where the index is a sample."""
    slots: int
    complete: bool
    """The index holds every slab, so `allocated` is a count and not a basis for estimates."""
    allocated: int
    """Allocated objects in the slabs of the index."""
    inuse: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Per slab of the index."""
    objects: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Slots per slab of the index."""


def usage(view: KernelView, cache: SlabCache, index: SlabIndex) -> Usage:
    """Count the cache's objects without reading them, but for the CPUs' own slabs."""
    rows = index.rows_of(view.caches.index(cache))
    reader = view.reader(cache)
    on_cpu = reader.cpu_slab_rows(index)
    on_cpu = on_cpu[index.cache[on_cpu] == view.caches.index(cache)]
    inuse = index.inuse[rows].astype(np.int64)
    where = np.searchsorted(rows, on_cpu)
    for batch in reader.read(index, on_cpu):
        # The CPU's slab counts all its slots as in use; what is on the CPU's list is free.
        at = np.searchsorted(index.address[rows], batch.base)
        inuse[at] = (batch.state == State.ALLOCATED).sum(axis=1)
    elsewhere = np.ones(len(rows), np.bool_)
    elsewhere[where] = False
    sheaved = index.locate(reader.sheaved, view.caches)
    kept_back, counts = np.unique(sheaved[sheaved >= 0], return_counts=True)
    own = index.cache[kept_back] == view.caches.index(cache)
    at, counts = np.searchsorted(rows, kept_back[own]), counts[own]
    inuse[at[elsewhere[at]]] -= counts[elsewhere[at]]
    objects = index.objects[rows].astype(np.int64)
    seen_slabs, seen_slots, allocated = len(rows), int(objects.sum()), int(inuse.sum())
    crowd = index.crowds.get(view.caches.index(cache))
    if crowd is not None:
        held_back = int(index.inuse[rows].sum(dtype=np.int64)) - allocated
        bases = reader.cpu_bases()
        elsewhere = (bases != 0) & ~index.has(bases)
        held_back += reader.held_back(np.unique(bases[elsewhere]))
        seen_slabs, seen_slots, allocated = crowd.slabs, crowd.objects, crowd.inuse - held_back
    if index.complete or cache.counters is None:
        scale = 1.0 if index.complete else 1 / max(index.scanned, 1e-9)
        slabs, slots = round(seen_slabs * scale), round(seen_slots * scale)
    else:
        slabs, slots = cache.counters.slabs, cache.counters.objects
    return Usage(slabs, slots, index.complete, allocated, inuse, objects)

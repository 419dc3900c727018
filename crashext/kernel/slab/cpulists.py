"""Free objects that no slab's own list knows: on CPU freelists, in sheaves and barns, and in SLAB's
array caches.

Sources: struct kmem_cache_cpu, include/linux/slub_def.h (4.19 to 6.1), mm/slub.c (6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.distinct import distinct
from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import UnknownLayout, Words, column, u64
from crashext.kernel.slab.arraycaches import array_caches, kept_back
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.sheaves import read_sheaves, sheaf_objects


@dataclass(frozen=True)
class CpuLists:
    """Free objects of one cache outside its slabs' freelists."""

    slabs: Words
    """Memory-map addresses (struct page or struct slab) of the CPUs' current slabs."""
    heads: Words
    """First free object of each CPU's own freelist, 0 where it is empty."""
    sheaved: Words
    """Addresses of free objects in sheaves and barns, or in array caches, sorted."""
    sheaves: Words
    """Addresses of all the cache's sheaves."""
    arrays: Words
    """Addresses of its array caches."""
    faults: int
    """Structures that could not be read: free objects in them look allocated."""


def cpu_lists(host: Host, cache: SlabCache, cpus: tuple[int, ...]) -> CpuLists:
    """Read them for one cache; `cpus` are the per-CPU offsets of the possible CPUs."""
    layout = host.layout("struct kmem_cache")
    if layout is not None and ("cpu_cache" in layout or "array" in layout):
        return _of_slab(host, cache, cpus)
    slabs, heads, faults = _cpu_slabs(host, cache, cpus)
    sheaves = read_sheaves(host, cache, _percpu(host, cache, "cpu_sheaves", cpus))
    objects, more = sheaf_objects(host, sheaves.free)
    every = np.concatenate([sheaves.free, sheaves.other])
    faults += sheaves.faults + more
    return CpuLists(slabs, heads, distinct(objects), every, np.zeros(0, np.uint64), faults)


def _of_slab(host: Host, cache: SlabCache, cpus: tuple[int, ...]) -> CpuLists:
    arrays, faults = array_caches(host, cache.address, cache.nodes, cpus)
    slots, more = kept_back(host, arrays)
    none = np.zeros(0, np.uint64)
    # Array caches hold slots; what is in front of the object there is a red zone.
    objects = slots + np.uint64(cache.red_left_pad)
    return CpuLists(none, none, objects, none, arrays, faults + more)


def _percpu(host: Host, cache: SlabCache, member: str, cpus: tuple[int, ...]) -> Words:
    """Address of a per-CPU member's copy on each CPU; empty where the cache has none."""
    layout = host.layout("struct kmem_cache")
    if layout is None or member not in layout:
        return np.zeros(0, np.uint64)
    try:
        pointer = u64(host, cache.address + layout[member].offset)
    except ReadFault:
        return np.zeros(0, np.uint64)
    if not pointer:
        return np.zeros(0, np.uint64)
    return np.uint64(pointer) + np.array(cpus, np.uint64)


def _cpu_slabs(host: Host, cache: SlabCache, cpus: tuple[int, ...]) -> tuple[Words, Words, int]:
    # kmem_cache.cpu_slab: gone with 32c894c7274b (7.0), absent in SLUB_TINY 6.2 to 6.18.
    layout = host.layout("struct kmem_cache_cpu")
    where = _percpu(host, cache, "cpu_slab", cpus)
    if layout is None or not len(where):
        empty = np.zeros(0, np.uint64)
        return empty, empty, 0
    current = layout.first_of("slab", "page")  # renamed by bb192ed9aa71 (5.17)
    if current is None:
        raise UnknownLayout("struct kmem_cache_cpu has neither slab nor page in this kernel")
    rows, ok = host.read_many(where, layout.size)
    slabs, heads = column(rows, current), column(rows, layout["freelist"])
    used = ok & (slabs != 0)
    return slabs[used], heads[used], int((~ok).sum())

"""Free objects that no slab's own freelist knows: on CPU freelists, in sheaves and in barns.

Sources: struct kmem_cache_cpu, include/linux/slub_def.h (4.19 to 6.1), mm/slub.c (6.12);
struct slub_percpu_sheaves, struct slab_sheaf, struct node_barn, mm/slub.c (6.18 to 7.1), as
drgn's helpers/linux/slab.py reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import UnknownLayout, Words, column, u64, words_at
from crashext.kernel.slab.caches import SlabCache

_MAX_SHEAF = 4096  # kmem_cache.sheaf_capacity is tens; more is damage
_MAX_BARN = 1024  # MAX_FULL_SHEAVES is 10


@dataclass(frozen=True)
class CpuLists:
    """Free objects of one cache outside its slabs' freelists."""

    slabs: Words
    """Memory-map addresses (struct page or struct slab) of the CPUs' current slabs."""
    heads: Words
    """First free object of each CPU's own freelist, 0 where it is empty."""
    sheaved: Words
    """Addresses of free objects in sheaves and barns, sorted."""
    faults: int
    """Structures that could not be read: free objects in them look allocated."""


def cpu_lists(host: Host, cache: SlabCache, cpus: tuple[int, ...]) -> CpuLists:
    """Read them for one cache; `cpus` are the per-CPU offsets of the possible CPUs."""
    slabs, heads, faults = _cpu_slabs(host, cache, cpus)
    sheaves, more = _sheaves(host, cache, cpus)
    objects, yet_more = _sheaf_objects(host, sheaves)
    return CpuLists(slabs, heads, np.unique(objects), faults + more + yet_more)


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


def _sheaves(host: Host, cache: SlabCache, cpus: tuple[int, ...]) -> tuple[Words, int]:
    """Addresses of the sheaves that hold free objects.

    The rcu_free sheaf is left out: its objects wait for a grace period and are not free yet.
    """
    # 2d517aa09bbc (6.18) added cpu_sheaves, opt-in per cache; every cache has them since 7.0.
    layout = host.layout("struct slub_percpu_sheaves")
    where = _percpu(host, cache, "cpu_sheaves", cpus)
    if layout is None or not len(where):
        return np.zeros(0, np.uint64), 0
    rows, ok = host.read_many(where, layout.size)
    found = [column(rows, layout[m])[ok] for m in ("main", "spare")]
    faults = int((~ok).sum())
    barns, missing = _barns(host, cache)
    for barn in barns:
        sheaves, whole = _full_sheaves(host, barn)
        found.append(np.array(sheaves, np.uint64))
        faults += not whole
    every = np.concatenate(found)
    return every[every != 0], faults + missing


def _barns(host: Host, cache: SlabCache) -> tuple[list[int], int]:
    node, cache_layout = host.layout("struct kmem_cache_node"), host.layout("struct kmem_cache")
    if cache_layout is not None and "per_node" in cache_layout:  # 5ba6bc27b1f9 (7.1)
        pair = host.layout("struct kmem_cache_per_node_ptrs")
        if pair is None:
            return [], 1
        count = max(1, cache_layout["per_node"].size // pair.size) if pair.size else 1
        start = cache.address + cache_layout["per_node"].offset + pair["barn"].offset
        count = min(count, max(1, len(cache.nodes)))
        where = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(pair.size)
    elif node is not None and "barn" in node:
        where = np.array(cache.nodes, np.uint64) + np.uint64(node["barn"].offset)
    else:
        return [], 0
    values, ok = words_at(host, where)
    return [int(v) for v in values[ok] if v], int((~ok).sum())


def _full_sheaves(host: Host, barn: int) -> tuple[list[int], bool]:
    layout, sheaf = host.layout("struct node_barn"), host.layout("struct slab_sheaf")
    if layout is None or sheaf is None:
        return [], False
    head = barn + layout["sheaves_full"].offset
    found: list[int] = []
    try:
        at = u64(host, head)
        while at != head:
            if len(found) >= _MAX_BARN:
                return found, False
            found.append(at - sheaf["barn_list"].offset)
            at = u64(host, at)
    except ReadFault:
        return found, False
    return found, True


def _sheaf_objects(host: Host, sheaves: Words) -> tuple[Words, int]:
    layout = host.layout("struct slab_sheaf")
    if layout is None or not len(sheaves):
        return np.zeros(0, np.uint64), 0
    rows, ok = host.read_many(sheaves, layout["objects"].offset)
    sizes = column(rows, layout["size"])
    sound = ok & (sizes <= _MAX_SHEAF)
    entries = [
        np.uint64(sheaf + layout["objects"].offset) + np.arange(n, dtype=np.uint64) * np.uint64(8)
        for sheaf, n in zip(sheaves[sound].tolist(), sizes[sound].tolist(), strict=True)
    ]
    if not entries:
        return np.zeros(0, np.uint64), int((~sound).sum())
    objects, readable = words_at(host, np.concatenate(entries))
    return objects[readable], int((~sound).sum()) + int((~readable).sum())

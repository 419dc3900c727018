"""SLAB's array caches: free objects that CPUs, nodes and neighbours of nodes keep for one cache.

Of an array's entry[] the first `avail` are free objects; behind them are stale words of objects
that were handed out, and that may belong to somebody today.

Sources: mm/slab.c struct array_cache, struct alien_cache, struct kmem_list3 (2.6.32, 3.10, 4.18,
6.1).
"""

from __future__ import annotations

import numpy as np

from crashext.distinct import distinct
from crashext.hosts.base import Host, Layout, Mask, ReadFault
from crashext.kernel.access import Words, column, u64, variable, words_at
from crashext.kernel.slab.geometry import node_layout

_MOST = 1 << 14  # entries of an array; batches of hundreds are usual
_MAX_NODES = 1024
_NONE = np.zeros(0, np.uint64)
_RESERVE = np.uint64(1)
"""SLAB_OBJ_PFMEMALLOC: set in an entry whose slab is from the reserves, from 072bb0aa5e06 (3.6)
into 4.x; no object is at an odd address."""


def array_caches(
    host: Host, address: int, nodes: tuple[int, ...], cpus: tuple[int, ...]
) -> tuple[Words, int]:
    """Addresses of the array caches of the kmem_cache at `address`; and pointers to such that
    could not be read."""
    layout = host.layout("struct kmem_cache")
    assert layout is not None
    found = [_NONE]
    faults = 0
    if "cpu_cache" in layout:  # bf0dea23a9c0 (3.18): per-CPU memory
        try:
            pointer = u64(host, address + layout["cpu_cache"].offset)
        except ReadFault:
            pointer, faults = 0, 1
        if pointer:
            found.append(np.uint64(pointer) + np.array(cpus, np.uint64))
    elif "array" in layout:  # before, one pointer a CPU
        most = max(1, layout["array"].size // 8)
        count = min(variable(host, "nr_cpu_ids", 4) or most, most)
        where = np.uint64(address + layout["array"].offset) + np.uint64(8) * np.arange(
            count, dtype=np.uint64
        )
        pointers, ok = words_at(host, where)
        found.append(pointers[ok])
        faults += int((~ok).sum())
    ours, more = _of_nodes(host, nodes)
    every = np.concatenate([*found, ours])
    return distinct(every[every != 0]), faults + more


def _of_nodes(host: Host, nodes: tuple[int, ...]) -> tuple[Words, int]:
    """The shared array of each node, and those for objects of other nodes."""
    layout = node_layout(host)
    if layout is None or not nodes:
        return _NONE, 0
    rows, ok = host.read_many(np.array(nodes, np.uint64), layout.size)
    found, faults = [_NONE], int((~ok).sum())
    if "shared" in layout:
        found.append(column(rows, layout["shared"])[ok])
    if "alien" in layout:
        for table in column(rows, layout["alien"])[ok].tolist():
            if table:
                aliens, more = _aliens(host, table)
                found.append(aliens)
                faults += more
    return np.concatenate(found), faults


def _aliens(host: Host, table: int) -> tuple[Words, int]:
    """alien[] has a pointer for each node: to an array cache; since 49dfc304ba24 (3.17) to a
    struct alien_cache that has it inside."""
    count = min(variable(host, "nr_node_ids", 4) or 1, _MAX_NODES)
    where = np.uint64(table) + np.uint64(8) * np.arange(count, dtype=np.uint64)
    pointers, ok = words_at(host, where)
    around = host.layout("struct alien_cache")
    inside = np.uint64(around["ac"].offset if around is not None else 0)
    pointers = pointers[ok]
    return pointers[pointers != 0] + inside, int((~ok).sum())


def kept_back(host: Host, arrays: Words) -> tuple[Words, int]:
    """Addresses of the free objects in `arrays`, sorted, and how many could not be read."""
    layout = host.layout("struct array_cache")
    if layout is None or not len(arrays):
        return _NONE, 0
    begin, end, _, sound = _bounds(host, layout, arrays)
    entries = [
        np.arange(a, b, 8, dtype=np.uint64)
        for a, b in zip(begin[sound].tolist(), end[sound].tolist(), strict=True)
    ]
    objects, readable = words_at(host, np.concatenate([_NONE, *entries]))
    return distinct(objects[readable] & ~_RESERVE), int((~sound).sum()) + int((~readable).sum())


def stale_entries(host: Host, arrays: Words) -> tuple[Words, Words]:
    """Virtual addresses of what is stale in `arrays`: where it begins and ends in each."""
    layout = host.layout("struct array_cache")
    if layout is None or not len(arrays):
        return _NONE, _NONE
    _, filled, limit, sound = _bounds(host, layout, arrays)
    return filled[sound], limit[sound]


def _bounds(host: Host, layout: Layout, arrays: Words) -> tuple[Words, Words, Words, Mask]:
    """Where the entries begin, where the free objects among them end, where they end; and which
    arrays are sound."""
    head = layout["entry"].offset
    rows, ok = host.read_many(arrays, head)
    avail, limit = column(rows, layout["avail"]), column(rows, layout["limit"])
    sound = ok & (avail <= limit) & (limit <= np.uint64(_MOST))
    begin = arrays + np.uint64(head)
    return begin, begin + avail * np.uint64(8), begin + limit * np.uint64(8), sound

"""Sheaves: arrays of free objects that CPUs, and barns behind them, keep for one cache.

Of a sheaf's objects[] the first `size` are in it; behind them are stale words of objects that it
once had, and that may belong to somebody today.

Sources: struct slub_percpu_sheaves, struct slab_sheaf, struct node_barn, mm/slub.c (6.18 to 7.2),
as drgn's helpers/linux/slab.py reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words, column, u64, words_at
from crashext.kernel.slab.caches import SlabCache

_MAX_SHEAF = 4096  # kmem_cache.sheaf_capacity is tens; more is damage
_MAX_BARN = 1024  # MAX_FULL_SHEAVES and MAX_EMPTY_SHEAVES are 10
_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Sheaves:
    """The sheaves of one cache, by what is in them."""

    free: Words
    """Addresses of those that hold free objects: CPUs' main and spare, barns' full."""
    other: Words
    """CPUs' rcu_free, whose objects wait for a grace period and are not free yet; barns' empty."""
    faults: int
    """Structures that could not be read and that may hold free objects."""


def read_sheaves(host: Host, cache: SlabCache, where: Words) -> Sheaves:
    """Find those of one cache; `where` are the addresses of its CPUs' slub_percpu_sheaves."""
    # 2d517aa09bbc (6.18) added cpu_sheaves, opt-in per cache; every cache has them since 7.0.
    layout = host.layout("struct slub_percpu_sheaves")
    if layout is None or not len(where):
        return Sheaves(_NONE, _NONE, 0)
    rows, ok = host.read_many(where, layout.size)
    free = [column(rows, layout[m])[ok] for m in ("main", "spare")]
    other = [column(rows, layout["rcu_free"])[ok]] if "rcu_free" in layout else []
    barns, missing = _barns(host, cache)
    faults = int((~ok).sum()) + missing
    for barn in barns:
        full, whole = _listed(host, barn, "sheaves_full")
        empty, _ = _listed(host, barn, "sheaves_empty")  # what is missing there hides no object
        free.append(np.array(full, np.uint64))
        other.append(np.array(empty, np.uint64))
        faults += not whole
    return Sheaves(_without_null(free), _without_null(other), faults)


def sheaf_objects(host: Host, sheaves: Words) -> tuple[Words, int]:
    """Addresses of the objects in `sheaves`, and how many could not be read."""
    layout = host.layout("struct slab_sheaf")
    if layout is None or not len(sheaves):
        return _NONE, 0
    ends, sound = _filled(host, sheaves)
    start = np.uint64(layout["objects"].offset)
    entries = [
        np.arange(sheaf + start, end, 8, dtype=np.uint64)
        for sheaf, end in zip(sheaves[sound], ends[sound], strict=True)
    ]
    if not entries:
        return _NONE, int((~sound).sum())
    objects, readable = words_at(host, np.concatenate(entries))
    return objects[readable], int((~sound).sum()) + int((~readable).sum())


def stale_from(host: Host, sheaves: Words) -> tuple[Words, Words]:
    """The sheaves that can be read, and the address from which the rest of each is stale."""
    if host.layout("struct slab_sheaf") is None or not len(sheaves):
        return _NONE, _NONE
    ends, sound = _filled(host, sheaves)
    return sheaves[sound], ends[sound]


def _filled(host: Host, sheaves: Words) -> tuple[Words, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Where each sheaf's last object ends, and which sheaves are sound."""
    layout = host.layout("struct slab_sheaf")
    assert layout is not None
    rows, ok = host.read_many(sheaves, layout["objects"].offset)
    sizes = column(rows, layout["size"])
    ends = sheaves + np.uint64(layout["objects"].offset) + sizes * np.uint64(8)
    return ends, ok & (sizes <= _MAX_SHEAF)


def _without_null(found: Iterable[Words]) -> Words:
    every = np.concatenate([_NONE, *found])
    named: Words = every[every != 0]
    return named


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


def _listed(host: Host, barn: int, kind: str) -> tuple[list[int], bool]:
    """Sheaves on one of a barn's lists, and whether it was whole."""
    layout, sheaf = host.layout("struct node_barn"), host.layout("struct slab_sheaf")
    if layout is None or sheaf is None or kind not in layout:
        return [], False
    head = barn + layout[kind].offset
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

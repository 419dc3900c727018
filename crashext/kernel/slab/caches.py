"""Slab caches: the list of them, flags, names and aliases. It reads no slab.

Sources: include/linux/slub_def.h and mm/slab.h (4.19, 6.1, 6.12), mm/slub.c; the members'
history is beside each use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.hosts.tags import pointer_tags
from crashext.kernel.access import UnknownLayout, require, string
from crashext.kernel.slab.descriptors import SlabKind, slab_kind
from crashext.kernel.slab.families import family
from crashext.kernel.slab.geometry import (
    NodeCounters,
    Row,
    geometry,
    index_width,
    node_counters,
    node_pointers,
    prefix,
)
from crashext.kernel.slab.listed import aliases, cache_list
from crashext.kernel.slab.spelling import spellings

# Flag bits were plain constants until "mm, slab: use an enum to define SLAB_ cache creation
# flags" (6.9) made them enum _slab_flag_bits.
_LEGACY_FLAGS = {
    "RED_ZONE": 0x400,
    "POISON": 0x800,
    "STORE_USER": 0x10000,
    "RECLAIM_ACCOUNT": 0x20000,
    "TYPESAFE_BY_RCU": 0x80000,
    "ACCOUNT": 0x4000000,
}


@dataclass(frozen=True)
class SlabCache:
    """One kmem_cache. Sizes in bytes."""

    address: int
    name: str
    aliases: tuple[str, ...]
    object_size: int
    """What a user of the cache may write to."""
    slot_size: int
    """From one object to the next, metadata included (kmem_cache.size)."""
    freelist_offset: int
    """Of a free slot's next pointer, from the object's start (kmem_cache.offset); past the object
    where free slots hold none (SLAB)."""
    red_left_pad: int
    """Bytes before each object that belong to its slot (SLAB's obj_offset); 0 without red zones."""
    freelist_random: int | None
    """kmem_cache.random; None where freelists are not hardened."""
    objects_per_slab: int
    order: int
    """Of its slabs, as a rule: pages are 1 << order."""
    flags: frozenset[str]
    has_constructor: bool
    refcount: int
    counters: NodeCounters | None
    nodes: tuple[int, ...]
    """Addresses of its kmem_cache_node structures."""
    tagged: bool = False
    """Whether a pointer's top byte may be a tag of KASAN's."""
    index_width: int = 1
    """SLAB: bytes of each number in a slab's array of free slots."""


class Caches:
    """Every cache of one kernel, by index, address and name."""

    def __init__(self, caches: Iterable[SlabCache], damage: str | None) -> None:
        self.all = tuple(caches)
        self.damage = damage
        """Why the list of caches is incomplete, or None."""
        self.sorted_addresses = np.array(sorted(c.address for c in self.all), np.uint64)
        self._by_address = {c.address: i for i, c in enumerate(self.all)}
        self.sorted_index = np.array(
            [self._by_address[int(a)] for a in self.sorted_addresses], np.uint16
        )
        self.slot_sizes = np.array([c.slot_size for c in self.all], np.uint64)
        """By index."""
        usual = [(c.slot_size, c.objects_per_slab, c.order) for c in self.all]
        self.usual = np.array(usual, np.uint64).reshape(-1, 3)
        """Of each by index: bytes of a slot, objects of a slab, its order."""
        self._by_name: dict[str, SlabCache] = {}
        for cache in self.all:
            for alias in cache.aliases:
                self._by_name.setdefault(alias, cache)
        for cache in reversed(self.all):  # its own name beats an alias; the first beats a later
            self._by_name[cache.name] = cache

    def find(self, name: str) -> SlabCache | None:
        """The cache called `name`, also by the name of a cache merged into it."""
        return next((self._by_name[n] for n in spellings(name) if n in self._by_name), None)

    def names(self) -> list[str]:
        return sorted(self._by_name)

    @cached_property
    def kmalloc_sizes(self) -> tuple[int, ...]:
        """Of objects of kmalloc's caches, each once, ascending: once for 20,000 caches, one of each
        cgroup."""
        sizes = {c.object_size for c in self.all if family(c.name)[0].startswith("kmalloc-")}
        return tuple(sorted(sizes))

    def index(self, cache: SlabCache) -> int:
        return self._by_address[cache.address]


def read_caches(host: Host) -> Caches:
    """Walk the list of caches. Raises `UnknownLayout` where the allocator is not understood."""
    kind = slab_kind(host)
    layout = require(host, "struct kmem_cache", "name", "flags")
    addresses, damage = cache_list(host, layout)
    data, ok = host.read_many(np.array(addresses, np.uint64), prefix(layout))
    if not ok.all():
        damage = f"{int((~ok).sum())} kmem_cache structures cannot be read"
    known_as = aliases(host, partial(_many, host), layout)
    flag_bits = _flag_bits(host)
    nodes = node_pointers(host, layout, addresses)
    rows = [Row(layout, bytes(d)) for d in data[ok]]
    width = index_width(rows)
    tagged = pointer_tags(host.info(), host.address_of) is not None
    caches = []
    for address, row in zip(np.array(addresses, np.uint64)[ok].tolist(), rows, strict=True):
        cache = _cache(host, kind, address, row, flag_bits)
        if cache is None:
            damage = f"kmem_cache at {address:#x} holds impossible sizes"
            continue
        caches.append(
            replace(
                cache,
                aliases=tuple(sorted(known_as.get(address, set()) - {cache.name})),
                index_width=width,
                tagged=tagged,
                counters=node_counters(host, nodes[address], cache.objects_per_slab),
                nodes=nodes[address],
            )
        )
    if not caches:
        raise UnknownLayout("no cache could be read from slab_caches")
    return Caches(caches, damage)


def _flag_bits(host: Host) -> dict[str, int]:
    bits = {}
    for name, legacy in _LEGACY_FLAGS.items():
        bit = host.enumerator(f"_SLAB_{name}")
        bits[name] = legacy if bit is None else 1 << bit if 0 <= bit < 64 else 0
    if host.enumerator("_SLAB_RED_ZONE") is not None:
        # In the enum's kernels a flag that is compiled out has no enumerator and no bit.
        bits = {n: b for n, b in bits.items() if host.enumerator(f"_SLAB_{n}") is not None}
    return bits


def _cache(
    host: Host, kind: SlabKind, address: int, row: Row, flag_bits: dict[str, int]
) -> SlabCache | None:
    """What its own structure says of a cache; None where the sizes are impossible."""
    layout = row.layout
    try:
        name = string(host, row["name"])
    except ReadFault:
        name = f"<unreadable name at {address:#x}>"
    flags = frozenset(n for n, bit in flag_bits.items() if row["flags"] & bit)
    sizes = geometry(host, row, kind, "RED_ZONE" in flags)
    if sizes is None:
        return None
    return SlabCache(
        address=address,
        name=name,
        aliases=(),
        object_size=sizes.object_size,
        slot_size=sizes.slot_size,
        freelist_offset=sizes.freelist_offset,
        red_left_pad=sizes.pad,
        freelist_random=row["random"] if "random" in layout else None,
        objects_per_slab=sizes.objects,
        order=sizes.order,
        flags=flags,
        has_constructor=row.first_of("ctor") != 0,
        refcount=row["refcount"] if "refcount" in layout else 1,
        counters=None,
        nodes=(),
    )


def _many(host: Host, addresses: Sequence[int], size: int) -> list[bytes | None]:
    rows, ok = host.read_many(np.array(addresses, np.uint64), size)
    return [bytes(row) if good else None for row, good in zip(rows, ok.tolist(), strict=True)]

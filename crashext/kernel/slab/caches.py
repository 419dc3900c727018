"""SLUB's caches: geometry, flags, counters, names and aliases. It reads no slab.

Sources: include/linux/slub_def.h and mm/slab.h (4.19, 6.1, 6.12), mm/slub.c; the members'
history is beside each use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host, Layout, ReadFault
from crashext.kernel import rbtree
from crashext.kernel.access import UnknownLayout, column, require, string, u64, variable, words_at

MAX_CACHES = 65536  # one per memory cgroup and cache before 5.9
MAX_NODES = 1024
_MAX_RBTREE = 1 << 17
_MAX_SLOT = 1 << 25
_WORD = (1 << 64) - 1

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
class NodeCounters:
    """kmem_cache_node counters, summed over nodes. Exact where CONFIG_SLUB_DEBUG is built in."""

    slabs: int
    objects: int
    """Slots, allocated and free."""


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
    """Of a free slot's next pointer, from the object's start (kmem_cache.offset)."""
    red_left_pad: int
    """Bytes before each object that belong to its slot; 0 without red zones."""
    freelist_random: int | None
    """kmem_cache.random; None where freelists are not hardened."""
    objects_per_slab: int
    flags: frozenset[str]
    has_constructor: bool
    refcount: int
    counters: NodeCounters | None
    nodes: tuple[int, ...]
    """Addresses of its kmem_cache_node structures."""


class Caches:
    """Every cache of one kernel, by index, address and name."""

    def __init__(self, caches: Iterable[SlabCache], damage: str | None) -> None:
        self.all = tuple(caches)
        self.damage = damage
        """Why the list of caches is incomplete, or None."""
        self.sorted_addresses = np.array(sorted(c.address for c in self.all), np.uint64)
        by_address = {c.address: i for i, c in enumerate(self.all)}
        self.sorted_index = np.array([by_address[int(a)] for a in self.sorted_addresses], np.uint16)
        self._by_name: dict[str, SlabCache] = {}
        for cache in self.all:
            for alias in cache.aliases:
                self._by_name.setdefault(alias, cache)
        for cache in reversed(self.all):  # its own name beats an alias; the first beats a later
            self._by_name[cache.name] = cache

    def find(self, name: str) -> SlabCache | None:
        """The cache called `name`, also by the name of a cache merged into it."""
        return self._by_name.get(name) or self._by_name.get(_other_spelling(name))

    def names(self) -> list[str]:
        return sorted(self._by_name)

    def index(self, cache: SlabCache) -> int:
        return self.all.index(cache)


def _other_spelling(name: str) -> str:
    """kmalloc-1024 is kmalloc-1k since 4.20 ("mm, slab: shorten kmalloc cache names for large
    sizes"); both are said.
    """
    prefix, _, size = name.rpartition("-")
    if not prefix.endswith("kmalloc") and "kmalloc" not in prefix:
        return name
    if len(size) > 8 or not size.isascii():
        return name
    if size.isdigit() and int(size) >= 1024 and int(size) % 1024 == 0:
        kib = int(size) // 1024
        return f"{prefix}-{kib // 1024}M" if kib >= 1024 else f"{prefix}-{kib}k"
    if size[:-1].isdigit() and size[-1:] in "kM":
        return f"{prefix}-{int(size[:-1]) * (1024 if size.endswith('k') else 1 << 20)}"
    return name


def read_caches(host: Host) -> Caches:
    """Walk `slab_caches`. Raises `UnknownLayout` where the allocator is not SLUB."""
    if host.layout("struct kmem_cache") is None:
        raise UnknownLayout("this kernel's debug info has no struct kmem_cache")
    layout = require(host, "struct kmem_cache", "list", "name", "size", "flags")
    if "offset" not in layout:
        # SLAB was removed by 16a1d968358a (6.8), SLOB by 6630e950d532 (6.4).
        raise UnknownLayout("this kernel's slab allocator is SLAB or SLOB; only SLUB is read")
    head = host.address_of("slab_caches")
    if head is None:
        raise UnknownLayout("slab_caches is not in the symbols")
    addresses, damage = _list_entries(host, head, layout["list"].offset)
    rows, ok = host.read_many(np.array(addresses, np.uint64), _prefix(layout))
    if not ok.all():
        damage = f"{int((~ok).sum())} kmem_cache structures cannot be read"
    aliases = _aliases(host, layout)
    flag_bits = _flag_bits(host)
    nodes = _node_pointers(host, layout, addresses)
    caches = []
    for address, row, good in zip(addresses, rows, ok, strict=True):
        if good:
            cache = _cache(host, layout, address, bytes(row), aliases, flag_bits, nodes[address])
            if cache is not None:
                caches.append(cache)
            else:
                damage = f"kmem_cache at {address:#x} holds impossible sizes"
    if not caches:
        raise UnknownLayout("no cache could be read from slab_caches")
    return Caches(caches, damage)


def _prefix(layout: Layout) -> int:
    """Bytes of kmem_cache worth reading: the arrays of node pointers at its end are not."""
    ends = [m.offset + m.size for n, m in layout.members.items() if n not in ("node", "per_node")]
    return max(ends)


def _list_entries(host: Host, head: int, link: int) -> tuple[list[int], str | None]:
    """Entries of a list_head list, bounded; what is wrong with it, if anything, comes beside."""
    entries: list[int] = []
    seen = {head}
    try:
        at = u64(host, head)
        while at not in seen and len(entries) < MAX_CACHES:
            seen.add(at)
            entries.append(at - link & _WORD)
            at = u64(host, at)
    except ReadFault as fault:
        return entries, f"slab_caches breaks off after {len(entries)} caches: {fault}"
    if at != head:
        return entries, f"slab_caches does not end where it began, after {len(entries)} caches"
    return entries, None


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
    host: Host,
    layout: Layout,
    address: int,
    row: bytes,
    aliases: dict[int, set[str]],
    flag_bits: dict[str, int],
    nodes: tuple[int, ...],
) -> SlabCache | None:
    def field(name: str) -> int:
        member = layout[name]
        return int.from_bytes(row[member.offset : member.offset + min(member.size, 8)], "little")

    try:
        name = string(host, field("name"))
    except ReadFault:
        name = f"<unreadable name at {address:#x}>"
    size = field("size")
    object_size = field("object_size") if "object_size" in layout else field("objsize")
    # struct kmem_cache_order_objects: order << 16 | objects.
    objects = field("oo") & 0xFFFF
    offset = field("offset")
    pad = field("red_left_pad") if "red_left_pad" in layout else 0
    value = field("flags")
    flags = frozenset(n for n, bit in flag_bits.items() if value & bit)
    pad = pad if "RED_ZONE" in flags else 0
    room = size - pad
    if not (0 < object_size <= room <= _MAX_SLOT and offset + 8 <= room and objects):
        return None
    return SlabCache(
        address=address,
        name=name,
        aliases=tuple(sorted(aliases.get(address, set()) - {name})),
        object_size=object_size,
        slot_size=size,
        freelist_offset=offset,
        red_left_pad=pad,
        freelist_random=field("random") if "random" in layout else None,
        objects_per_slab=objects,
        flags=flags,
        has_constructor=field("ctor") != 0 if "ctor" in layout else False,
        refcount=field("refcount") if "refcount" in layout else 1,
        counters=_counters(host, nodes),
        nodes=nodes,
    )


def _node_pointers(host: Host, layout: Layout, addresses: list[int]) -> dict[int, tuple[int, ...]]:
    """kmem_cache_node addresses of each cache."""
    count = min(variable(host, "nr_node_ids", 4) or 1, MAX_NODES)
    # 5ba6bc27b1f9 (7.1) put the node pointers into per_node[] pairs.
    if "per_node" in layout:
        pair = require(host, "struct kmem_cache_per_node_ptrs", "node")
        start, stride, inner = layout["per_node"].offset, pair.size, pair["node"].offset
    elif "node" in layout:
        start, stride, inner = layout["node"].offset, 8, 0
    else:
        return dict.fromkeys(addresses, ())
    where = (
        np.array(addresses, np.uint64)[:, None]
        + (np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(start + inner))[None]
    )
    values, ok = words_at(host, where.reshape(-1))
    table = np.where(ok, values, 0).reshape(-1, count)
    return {a: tuple(int(v) for v in row if v) for a, row in zip(addresses, table, strict=True)}


def _counters(host: Host, nodes: tuple[int, ...]) -> NodeCounters | None:
    layout = host.layout("struct kmem_cache_node")
    if layout is None or "nr_slabs" not in layout or not nodes:
        return None
    rows, ok = host.read_many(np.array(nodes, np.uint64), layout.size)
    if not ok.all():
        return None
    return NodeCounters(
        slabs=int(column(rows, layout["nr_slabs"]).sum()),
        objects=int(column(rows, layout["total_objects"]).sum()),
    )


def _aliases(host: Host, cache_layout: Layout) -> dict[int, set[str]]:
    """Names merged into each cache: the symbolic links under /sys/kernel/slab, read in kernfs.

    Empty where the kernel has no CONFIG_SYSFS. Source: sysfs_slab_alias() in mm/slub.c.
    """
    node, kset = host.layout("struct kernfs_node"), host.address_of("slab_kset")
    link_flag, kset_layout = host.enumerator("KERNFS_LINK"), host.layout("struct kset")
    kobject, directory = host.layout("struct kobject"), host.layout("struct kernfs_elem_dir")
    if (
        node is None
        or kset is None
        or link_flag is None
        or kset_layout is None
        or kobject is None
        or directory is None
        or "kobj" not in cache_layout
    ):
        return {}
    try:
        at = u64(host, kset) + kset_layout["kobj"].offset + kobject["sd"].offset
        root = u64(host, at) + node["dir"].offset + directory["children"].offset
    except ReadFault:
        return {}
    found, _ = rbtree.nodes(host, np.array([root], np.uint64), _MAX_RBTREE)
    rows, ok = host.read_many(found - np.uint64(node["rb"].offset), node.size)
    names, flags, targets = (column(rows[ok], node[n]) for n in ("name", "flags", "symlink"))
    is_link = flags & np.uint64(link_flag) != 0
    links = list(zip(names[is_link].tolist(), targets[is_link].tolist(), strict=True))
    aliases: dict[int, set[str]] = {}
    if not links:
        return aliases
    owners, ok = words_at(
        host, np.array([t for _, t in links], np.uint64) + np.uint64(node["priv"].offset)
    )
    for (name, _), kobj, good in zip(links, owners, ok, strict=True):
        if good and kobj:
            try:
                aliases.setdefault(int(kobj) - cache_layout["kobj"].offset, set()).add(
                    string(host, name)
                )
            except ReadFault:
                continue
    return aliases

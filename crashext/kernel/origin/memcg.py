"""Which memory cgroup pays for an object: where kernel memory is accounted per object (5.9), or
where each cgroup has caches of its own (3.8 to 5.8).

It answers for caches with SLAB_ACCOUNT and kmalloc-cg-*, and only where a memory cgroup other
than the root was alive when the object was allocated. Who allocated is not who pays, but often
enough it is the same service.

Sources: include/linux/memcontrol.h struct obj_cgroup (5.9 to 6.12), include/linux/slab.h struct
memcg_cache_params (3.10 to 5.4), include/linux/cgroup.h struct cgroup (3.10), fs/kernfs/dir.c.
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import Words, string, u64, words_at
from crashext.kernel.origin.slabexts import entry_words, object_entries, vector_member
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.families import cgroup_of
from crashext.kernel.slab.view import KernelView

_MAX_DEPTH = 64  # cgroups below each other
_MAX_GROUPS = 4096
_POINTER = 8
_WORD = (1 << 64) - 1


def accounted(host: Host) -> bool:
    """Whether this kernel notes a memory cgroup per object."""
    return vector_member(host) is not None and host.layout("struct obj_cgroup") is not None


def object_cgroups(view: KernelView, cache: SlabCache, objects: Addresses) -> Words:
    """Address of the mem_cgroup that each object is charged to, 0 where none is. uint64[n]."""
    host = view.host
    found, layout = vector_member(host), host.layout("struct obj_cgroup")
    owners = np.zeros(len(objects), np.uint64)
    if found is None or layout is None or "memcg" not in layout:
        return owners
    offset, size = 0, 8
    if found[1] == "obj_exts":
        entry = host.layout("struct slabobj_ext")
        if entry is None or "objcg" not in entry:
            return owners
        offset, size = entry["objcg"].offset, entry.size
    charges, ok = entry_words(view, object_entries(view, cache, objects, size), offset)
    ok &= charges != 0
    unique, inverse = np.unique(charges[ok], return_inverse=True)
    if not len(unique):
        return owners
    groups, there = words_at(host, unique + np.uint64(layout["memcg"].offset))
    owners[ok] = np.where(there, groups, np.uint64(0))[inverse]
    return owners


def payer_of(host: Host, cache: SlabCache) -> str | None:
    """The cgroup that a cache of its own is charged to: its path, or its name where that cannot be
    read. None: the cache is everybody's."""
    name = cgroup_of(cache.name)
    if name is None:
        return None
    of_cache, params = (host.layout(f"struct {n}") for n in ("kmem_cache", "memcg_cache_params"))
    if of_cache is None or params is None or "memcg_params" not in of_cache:
        return name
    try:
        at = cache.address + of_cache["memcg_params"].offset
        # A part of the cache since f7ce3190c4a3 (4.0).
        if of_cache["memcg_params"].size == _POINTER:
            at = u64(host, at)
        return _path(host, u64(host, (at + params["memcg"].offset) & _WORD)) or name
    except (ReadFault, OverflowError):
        return name


def cgroup_paths(host: Host, groups: Words) -> dict[int, str]:
    """Paths of mem_cgroups, as in /sys/fs/cgroup; without those that cannot be read."""
    paths = {}
    for group in np.unique(groups[groups != 0])[:_MAX_GROUPS].tolist():
        path = _path(host, group)
        if path is not None:
            paths[group] = path
    return paths


def _path(host: Host, group: int) -> str | None:
    """Names from the root of the hierarchy down, which has none itself."""
    memcg, css = host.layout("struct mem_cgroup"), host.layout("struct cgroup_subsys_state")
    cgroup = host.layout("struct cgroup")
    if memcg is None or css is None or cgroup is None:
        return None
    names: list[str] = []
    try:
        at = u64(host, (group + memcg["css"].offset + css["cgroup"].offset) & _WORD)
        if "kn" in cgroup:
            node = host.layout("struct kernfs_node")
            # kernfs_node.parent became __parent in 6.15.
            up = None if node is None else node.first_of("parent", "__parent")
            text = 0
            at = u64(host, (at + cgroup["kn"].offset) & _WORD)
        else:  # before 2bd59d48ebfb (3.15)
            node, up = cgroup, cgroup.first_of("parent")
            named = host.layout("struct cgroup_name")
            if named is None:
                return None
            text = named["name"].offset
        if node is None or up is None:
            return None
        for _ in range(_MAX_DEPTH):
            parent = u64(host, at + up.offset)
            if not parent:
                return "/" + "/".join(reversed(names))
            names.append(string(host, u64(host, at + node["name"].offset) + text))
            at = parent
    except (ReadFault, OverflowError):
        return None
    return None

"""Which memory cgroup pays for an object, on any kernel that accounts kernel memory per object.

It answers for caches with SLAB_ACCOUNT and kmalloc-cg-*, and only where a memory cgroup other
than the root was alive when the object was allocated. Who allocated is not who pays, but often
enough it is the same service.

Sources: include/linux/memcontrol.h struct obj_cgroup (5.9 to 6.12), fs/kernfs/dir.c.
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import Words, string, u64, words_at
from crashext.kernel.origin.slabexts import entry_words, object_entries, vector_member
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

_MAX_DEPTH = 64  # cgroups below each other
_MAX_GROUPS = 4096
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


def cgroup_paths(host: Host, groups: Words) -> dict[int, str]:
    """Paths of mem_cgroups, as in /sys/fs/cgroup; without those that cannot be read."""
    paths = {}
    for group in np.unique(groups[groups != 0])[:_MAX_GROUPS].tolist():
        path = _path(host, group)
        if path is not None:
            paths[group] = path
    return paths


def _path(host: Host, group: int) -> str | None:
    memcg, css = host.layout("struct mem_cgroup"), host.layout("struct cgroup_subsys_state")
    cgroup, node = host.layout("struct cgroup"), host.layout("struct kernfs_node")
    if memcg is None or css is None or cgroup is None or node is None:
        return None
    # kernfs_node.parent became __parent in 6.15.
    up = node.first_of("parent", "__parent")
    if up is None:
        return None
    names: list[str] = []
    try:
        owner = u64(host, (group + memcg["css"].offset + css["cgroup"].offset) & _WORD)
        at = u64(host, (owner + cgroup["kn"].offset) & _WORD)
        for _ in range(_MAX_DEPTH):
            parent = u64(host, at + up.offset)
            if not parent:
                return "/" + "/".join(reversed(names))
            names.append(string(host, u64(host, at + node["name"].offset)))
            at = parent
    except (ReadFault, OverflowError):
        return None
    return None

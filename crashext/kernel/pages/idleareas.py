"""Records of address ranges that no area uses: free ones, and those that wait to be given back.

Such a vmap_area keeps the pointer to the vm_struct that it once had, which is somebody else's
memory by now. It is recognised by the tree or list that holds it.

Source: mm/vmalloc.c (5.2 to 7.2).
"""

from __future__ import annotations

import numpy as np

from crashext.distinct import union
from crashext.hosts.base import Host
from crashext.kernel import rbtree
from crashext.kernel.access import Words, variable, words_at
from crashext.kernel.lists import entries
from crashext.kernel.pages.areas import MAX_AREAS

_MAX_NODES = 1024


def idle_records(host: Host) -> Words:
    """Addresses of the vmap_areas that are in no tree of busy ones, ascending."""
    area = host.layout("struct vmap_area")
    if area is None:
        return np.zeros(0, np.uint64)
    # 68ad4a330433 (5.2) keeps the free ranges in a tree; 96e2db456135 (5.11) those to be purged
    # in another, and before in a chain through `vm`'s own place, which so is no stale pointer.
    names = ("free_vmap_area_root", "purge_vmap_area_root")
    trees = [at for at in (host.address_of(name) for name in names) if at is not None]
    purged = host.address_of("purge_vmap_area_list")
    lists = [] if purged is None else [purged]
    of_nodes = _of_nodes(host)
    found, _ = rbtree.nodes(host, np.array(trees + of_nodes[0], np.uint64), MAX_AREAS)
    listed: list[int] = []
    for head in lists + of_nodes[1]:
        listed += entries(host, head, area["list"].offset, MAX_AREAS)
    return union(found - np.uint64(area["rb_node"].offset), np.array(listed, np.uint64))


def _of_nodes(host: Host) -> tuple[list[int], list[int]]:
    """Trees and lists of every vmap_node: 72210662c5a2 (6.9) spread the areas over them."""
    node, tree = host.layout("struct vmap_node"), host.layout("struct rb_list")
    nodes, count = variable(host, "vmap_nodes"), variable(host, "nr_vmap_nodes", 4)
    if node is None or tree is None or not nodes or not count:
        return [], []
    each = nodes + np.arange(min(count, _MAX_NODES), dtype=np.uint64) * np.uint64(node.size)
    lazy = each + np.uint64(node["lazy"].offset + tree["root"].offset)
    heads = [each + np.uint64(node["purge_list"].offset)] if "purge_list" in node else []
    pool = host.layout("struct vmap_pool")
    if pool is not None and "pool" in node:
        within = np.arange(0, node["pool"].size, pool.size, dtype=np.uint64)
        start = np.uint64(node["pool"].offset + pool["head"].offset)
        heads.append((each[:, None] + start + within[None]).reshape(-1))
    every = np.concatenate([np.zeros(0, np.uint64), *heads])
    first, ok = words_at(host, every)
    return lazy.tolist(), every[ok & (first != every)].tolist()

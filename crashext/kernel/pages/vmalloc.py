"""vmalloc areas: which one holds an address, and who asked for it.

Sources: include/linux/vmalloc.h, mm/vmalloc.c (4.19 to 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes, Host, Layout, Member, ReadFault
from crashext.kernel import rbtree
from crashext.kernel.access import Words, column, u64, variable, words_at


@dataclass(frozen=True)
class VmallocArea:
    """One vmap_area; `caller` is 0 where nobody is noted."""

    start: int
    end: int
    caller: int


def area_at(host: Host, address: int) -> VmallocArea | None:
    """The vmap_area that holds `address`, by one descent of each busy tree."""
    area = host.layout("struct vmap_area")
    if area is None:
        return None

    def sides(rows: Bytes, keys: Words) -> NDArray[np.int64]:
        left, right = keys < column(rows, area["va_start"]), keys >= column(rows, area["va_end"])
        return right.astype(np.int64) - left

    key = np.array([address], np.uint64)
    roots, _ = words_at(host, np.array(tree_roots(host), np.uint64))
    for root in roots.tolist():
        rows, hit = rbtree.search(host, root, area, area["rb_node"].offset, key, sides)
        if hit[0]:
            start, end = (int(column(rows, area[name])[0]) for name in ("va_start", "va_end"))
            link = description(area)
            structure = 0 if link is None else int(column(rows, link)[0])
            return VmallocArea(start, end, _caller(host, structure))
    return None


def tree_roots(host: Host) -> list[int]:
    """Addresses of the rb_root of every tree of busy areas."""
    single = host.address_of("vmap_area_root")
    if single is not None:
        return [single]
    # d093602919ad (6.9) split the tree over vmap_nodes.
    node = host.layout("struct vmap_node")
    nodes, count = variable(host, "vmap_nodes"), variable(host, "nr_vmap_nodes", 4)
    tree = host.layout("struct rb_list")
    if node is None or not nodes or not count or tree is None:
        return []
    start = nodes + node["busy"].offset + tree["root"].offset
    return [start + i * node.size for i in range(min(count, 1024))]


def description(area: Layout) -> Member | None:
    """Of a vmap_area, what leads to its vm_struct: `private` before db1aecafef58 (3.3)."""
    return area.first_of("vm", "private")


def _caller(host: Host, structure: int) -> int:
    vm = host.layout("struct vm_struct")
    try:
        return u64(host, structure + vm["caller"].offset) if structure and vm else 0
    except ReadFault:
        return 0

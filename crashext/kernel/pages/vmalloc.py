"""vmalloc areas: which one holds an address, and who asked for it.

Sources: include/linux/vmalloc.h, mm/vmalloc.c (4.19 to 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

from crashext.hosts.base import Host, Layout, Member, ReadFault
from crashext.kernel.access import u64, variable

_MAX_DEPTH = 64  # a red-black tree of 2**32 areas is no deeper


@dataclass(frozen=True)
class VmallocArea:
    """One vmap_area; `caller` is 0 where nobody is noted."""

    start: int
    end: int
    caller: int


def area_at(host: Host, address: int) -> VmallocArea | None:
    """The vmap_area that holds `address`, by one descent of each busy tree."""
    for root in tree_roots(host):
        found = _descend(host, root, address)
        if found is not None:
            return found
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


def _descend(host: Host, root: int, address: int) -> VmallocArea | None:
    area, rb = host.layout("struct vmap_area"), host.layout("struct rb_node")
    if area is None or rb is None:
        return None
    try:
        at = u64(host, root)
        for _ in range(_MAX_DEPTH):
            if not at:
                return None
            base = at - area["rb_node"].offset
            start = u64(host, base + area["va_start"].offset)
            end = u64(host, base + area["va_end"].offset)
            if start <= address < end:
                return VmallocArea(start, end, _caller(host, base))
            side = "rb_left" if address < start else "rb_right"
            at = u64(host, at + rb[side].offset)
    except ReadFault:
        return None
    return None


def description(area: Layout) -> Member | None:
    """Of a vmap_area, what leads to its vm_struct: `private` before db1aecafef58 (3.3)."""
    return area.first_of("vm", "private")


def _caller(host: Host, area_address: int) -> int:
    area, vm = host.layout("struct vmap_area"), host.layout("struct vm_struct")
    link = None if area is None else description(area)
    if vm is None or link is None:
        return 0
    try:
        structure = u64(host, area_address + link.offset)
        return u64(host, structure + vm["caller"].offset) if structure else 0
    except ReadFault:
        return 0

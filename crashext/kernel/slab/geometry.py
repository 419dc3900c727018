"""How a cache cuts its slabs into slots, and what its nodes count: SLUB's way and SLAB's.

It reads kmem_cache and its nodes, no slab. Sources: include/linux/slub_def.h, slab_def.h and mm/
slab.h (2.6.32, 3.10, 4.18, 4.19, 6.1, 6.12); the members' history is beside each use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host, Layout, Member
from crashext.kernel.access import column, require, variable, words_at
from crashext.kernel.addresses import page_size
from crashext.kernel.slab.descriptors import SlabKind

MAX_NODES = 1024
_MAX_SLOT = 1 << 25
_MAX_ORDER = 13
_WIDTHS = (1, 2, 4)  # of freelist_idx_t; unsigned int before 3.15
_NODE_ARRAYS = ("node", "per_node", "nodelists", "array")


@dataclass(frozen=True)
class NodeCounters:
    """kmem_cache_node counters, summed over nodes. SLUB: exact where CONFIG_SLUB_DEBUG is on."""

    slabs: int
    objects: int
    """Slots, allocated and free."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of one cache, in bytes unless said otherwise."""

    object_size: int
    slot_size: int
    freelist_offset: int
    pad: int
    """Before each object, in its slot."""
    objects: int
    """A slab's, of the usual order."""
    order: int


class Row:
    """One kmem_cache as bytes."""

    def __init__(self, layout: Layout, data: bytes) -> None:
        self.layout, self._data = layout, data

    def __getitem__(self, name: str) -> int:
        member = self.layout[name]
        return int.from_bytes(
            self._data[member.offset : member.offset + min(member.size, 8)], "little"
        )

    def first_of(self, *names: str) -> int:
        """The first member of `names` that there is; 0 where there is none."""
        return next((self[n] for n in names if n in self.layout), 0)


def prefix(layout: Layout) -> int:
    """Bytes of kmem_cache worth reading: the arrays of pointers at its end are not."""
    return max(m.offset + m.size for n, m in layout.members.items() if n not in _NODE_ARRAYS)


def geometry(host: Host, row: Row, kind: SlabKind, red_zone: bool) -> Geometry | None:
    """The sizes; None where they are impossible."""
    found = _of_slub(row, red_zone) if kind is SlabKind.SLUB else _of_slab(row)
    room = found.slot_size - found.pad
    possible = 0 < found.object_size <= room <= _MAX_SLOT and found.objects > 0
    if kind is SlabKind.SLUB:
        possible &= found.freelist_offset + 8 <= room
    else:
        possible &= found.order <= _MAX_ORDER
        possible &= found.objects * found.slot_size <= page_size(host) << found.order
    return found if possible else None


def _of_slub(row: Row, red_zone: bool) -> Geometry:
    # struct kmem_cache_order_objects: order << 16 | objects.
    return Geometry(
        object_size=row.first_of("object_size", "objsize"),
        slot_size=row["size"],
        freelist_offset=row["offset"],
        pad=row.first_of("red_left_pad") if red_zone else 0,
        objects=row["oo"] & 0xFFFF,
        order=row["oo"] >> 16 & 0xFFFF,
    )


def _of_slab(row: Row) -> Geometry:
    # buffer_size was renamed by 3b0efdfa1e71 (3.6), which also made object_size one of all caches;
    # before, obj_size was kept with CONFIG_DEBUG_SLAB only. So is obj_offset, until today.
    size = row.first_of("size", "buffer_size")
    return Geometry(
        object_size=row.first_of("object_size", "obj_size") or size,
        slot_size=size,
        freelist_offset=size,  # free slots hold no pointer: past every object
        pad=row.first_of("obj_offset"),
        objects=row["num"],
        order=row["gfporder"],
    )


def index_width(rows: list[Row]) -> int:
    """Bytes of a freelist_idx_t, from what the caches set apart for arrays of them.

    An array may be padded, but not in every cache; so the least is right.
    """
    shares = [
        r["freelist_size"] // r["num"] for r in rows if "freelist_size" in r.layout and r["num"]
    ]
    least = min((s for s in shares if s), default=1)
    return max(w for w in _WIDTHS if w <= max(least, 1))


def node_pointers(host: Host, layout: Layout, addresses: list[int]) -> dict[int, tuple[int, ...]]:
    """kmem_cache_node addresses of each cache."""
    count = min(variable(host, "nr_node_ids", 4) or 1, MAX_NODES)
    starts = np.array(addresses, np.uint64)
    # 5ba6bc27b1f9 (7.1) put the node pointers into per_node[] pairs.
    if "per_node" in layout:
        pair = require(host, "struct kmem_cache_per_node_ptrs", "node")
        start, stride, inner = layout["per_node"].offset, pair.size, pair["node"].offset
    elif (member := layout.first_of("node", "nodelists")) is not None:
        start, stride, inner = member.offset, 8, 0
        if _points_behind(layout, member):
            found, ok = words_at(host, starts + np.uint64(start))
            starts, start = np.where(ok, found, np.uint64(0)), 0
    else:
        return dict.fromkeys(addresses, ())
    steps = np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(start + inner)
    values, ok = words_at(host, (starts[:, None] + steps[None]).reshape(-1))
    table = np.where(ok, values, 0).reshape(-1, count)
    return {a: tuple(int(v) for v in row if v) for a, row in zip(addresses, table, strict=True)}


def _points_behind(layout: Layout, nodes: Member) -> bool:
    """Whether the member is a pointer to an array, of which array[] at the end has the rest.

    So it was in SLAB from 3.2 until bf0dea23a9c0 (3.18).
    """
    cpus = layout.first_of("array")
    return cpus is not None and nodes.offset < cpus.offset


def node_layout(host: Host) -> Layout | None:
    """Of a cache's part on one node; called kmem_list3 by SLAB before 3.10."""
    return host.layout("struct kmem_cache_node") or host.layout("struct kmem_list3")


def node_counters(host: Host, nodes: tuple[int, ...], objects: int) -> NodeCounters | None:
    """What the nodes of a cache count, of `objects` a slab; None where they do not."""
    layout = node_layout(host)
    if layout is None or not nodes:
        return None
    # SLUB's nr_slabs; SLAB's, for one kernel num_slabs, since bf00bd345804 (4.10) total_slabs.
    slabs = layout.first_of("nr_slabs", "total_slabs", "num_slabs")
    if slabs is None:
        return None
    rows, ok = host.read_many(np.array(nodes, np.uint64), layout.size)
    if not ok.all():
        return None
    count = int(column(rows, slabs).sum())
    if "total_objects" in layout:
        return NodeCounters(count, int(column(rows, layout["total_objects"]).sum()))
    return NodeCounters(count, count * objects)

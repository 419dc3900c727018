"""The kernel's page counters (vm_stat and its kin), with what CPUs have not folded in yet.

Sources: include/linux/mmzone.h, vmstat.h, mm/vmstat.c (3.10 to 6.12). Values are in the counter's
own unit: pages, but for names that end in ``_KB``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Addresses, Host, Layout, Mask, ReadFault
from crashext.kernel.access import Words, column, words_at
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.pages.zones import node_addresses

_MAX_ITEMS = 256
_MAX_ZONES = 5 * 1024
_WORD = (1 << 64) - 1
_WMARK_LOW = 1  # enum zone_watermarks: min, low, high

# Items of a zone in every kernel that also counts by node (75ef71840539, 4.8).
_ZONE_ITEMS = frozenset(
    ("NR_FREE_PAGES", "NR_MLOCK", "NR_BOUNCE", "NR_ZSPAGES", "NR_FREE_CMA_PAGES", "NR_UNACCEPTED")
)
# Items that moved from the zone to the node: 385386cff4c6 (4.13), 991e7673859e (5.9),
# f0c0c115fb81 (5.11). While they are the zone's they stand behind NR_MLOCK.
_MOVED = frozenset(
    (
        "NR_SLAB_RECLAIMABLE",
        "NR_SLAB_UNRECLAIMABLE",
        "NR_KERNEL_STACK",
        "NR_KERNEL_STACK_KB",
        "NR_KERNEL_SCS_KB",
        "NR_PAGETABLE",
    )
)


@dataclass(frozen=True)
class Zones:
    """All populated zones together, in pages."""

    managed: int
    """Given to the page allocator."""
    present: int
    spanned: int
    low: int
    """Low watermarks."""


@dataclass(frozen=True)
class VmStat:
    """Global counters by enumerator."""

    host: Host
    zone: NDArray[np.int64]
    """int64[items] of enum zone_stat_item."""
    node: NDArray[np.int64]
    """int64[items] of enum node_stat_item; empty before 4.8, when zones counted everything."""
    zone_pending: NDArray[np.int64]
    """int64[items]: what CPUs have counted and not yet added."""
    node_pending: NDArray[np.int64]
    unread: int
    """CPUs' counters that could not be read."""

    def get(self, *names: str) -> int | None:
        """Value of the first of `names` that this kernel has, never negative; None: it has none."""
        for name in names:
            item = self.host.enumerator(name)
            if item is None:
                continue
            of_zone = not len(self.node) or name in _ZONE_ITEMS or self._not_moved(name, item)
            values, more = (
                (self.zone, self.zone_pending) if of_zone else (self.node, self.node_pending)
            )
            if 0 <= item < len(values):
                # As the kernel's own sums: a moment's disorder among CPUs may fall below zero.
                return max(0, int(values[item] + more[item]))
        return None

    def _not_moved(self, name: str, item: int) -> bool:
        mlock = self.host.enumerator("NR_MLOCK")
        return name in _MOVED and mlock is not None and mlock < item < len(self.zone)


def read_vmstat(host: Host, space: AddressSpace) -> VmStat | None:
    """The counters; None where they cannot be read."""
    zone = _array(host, ("vm_zone_stat", "vm_stat"), "NR_VM_ZONE_STAT_ITEMS")
    if zone is None:
        return None
    node = _array(host, ("vm_node_stat",), "NR_VM_NODE_STAT_ITEMS")
    if node is None:
        node = np.zeros(0, np.int64)
    nodes = node_addresses(host)
    zone_pending, lost = _pending(
        host,
        space,
        _zone_addresses(host, nodes),
        host.layout("struct zone"),
        # 28f836b6777b (5.14) took the counters out of per_cpu_pageset.
        (
            ("per_cpu_zonestats", "struct per_cpu_zonestat", "vm_stat_diff"),
            ("pageset", "struct per_cpu_pageset", "vm_stat_diff"),
        ),
        len(zone),
    )
    node_pending, gone = _pending(
        host,
        space,
        nodes,
        host.layout("struct pglist_data"),
        (("per_cpu_nodestats", "struct per_cpu_nodestat", "vm_node_stat_diff"),),
        len(node),
    )
    return VmStat(host, zone, node, zone_pending, node_pending, lost + gone)


def read_zones(host: Host) -> Zones | None:
    """What the zones hold together; None where no zone can be read."""
    layout = host.layout("struct zone")
    addresses = _zone_addresses(host, node_addresses(host))
    if layout is None or not addresses or "present_pages" not in layout:
        return None
    rows, ok = host.read_many(np.array(addresses, np.uint64), layout.size)
    rows = rows[ok]
    if not len(rows):
        return None

    def total(*names: str) -> int:
        member = layout.first_of(*names)
        return 0 if member is None else int(column(rows, member).sum())

    # 1c30844d2dfe (5.0) renamed watermark, when it added the boost.
    marks = layout.first_of("_watermark", "watermark")
    low = 0
    if marks is not None:
        at = marks.offset + 8 * _WMARK_LOW
        low = int(np.ascontiguousarray(rows[:, at : at + 8]).view("<u8").sum())
    return Zones(
        managed=total("managed_pages"),
        present=total("present_pages"),
        spanned=total("spanned_pages"),
        low=low + total("watermark_boost"),
    )


def read_cpu_free(host: Host, space: AddressSpace) -> int | None:
    """Free pages on the CPUs' own lists, which NR_FREE_PAGES does not count."""
    zone, pages = host.layout("struct zone"), host.layout("struct per_cpu_pages")
    if zone is None or pages is None or "count" not in pages:
        return None
    # 28f836b6777b (5.14) split per_cpu_pageset; before, its first member is the per_cpu_pages.
    member = zone.first_of("per_cpu_pageset", "pageset")
    addresses = _zone_addresses(host, node_addresses(host))
    if member is None or not addresses:
        return None
    bases, ok = _pointers(host, addresses, member.offset)
    bases = bases[ok & (bases != 0)]
    offsets = np.array([o & _WORD for o in space.percpu_offsets], np.uint64)
    where = (bases[:, None] + offsets[None] + np.uint64(pages["count"].offset)).reshape(-1)
    rows, read = host.read_many(where, 4)
    return max(0, int(np.ascontiguousarray(rows[read]).view("<i4").sum()))


def _zone_addresses(host: Host, nodes: list[int]) -> list[int]:
    zone, node = host.layout("struct zone"), host.layout("struct pglist_data")
    if zone is None or node is None or "node_zones" not in node or not zone.size:
        return []
    zones = node["node_zones"]
    return [
        start + zones.offset + i * zone.size
        for start in nodes
        for i in range(zones.size // zone.size)
    ][:_MAX_ZONES]


def _array(host: Host, symbols: tuple[str, ...], length: str) -> NDArray[np.int64] | None:
    items = host.enumerator(length)
    address = next((a for name in symbols if (a := host.address_of(name)) is not None), None)
    if items is None or address is None or not 0 < items <= _MAX_ITEMS:
        return None
    try:
        return np.frombuffer(host.read(address, 8 * items), "<i8").astype(np.int64)
    except ReadFault:
        return None


def _pending(
    host: Host,
    space: AddressSpace,
    owners: list[int],
    layout: Layout | None,
    ways: tuple[tuple[str, str, str], ...],
    items: int,
) -> tuple[NDArray[np.int64], int]:
    """int64[items] over all owners and CPUs, and how many could not be read."""
    total = np.zeros(items, np.int64)
    if layout is None or not owners or not items:
        return total, 0
    for pointer, type_name, member in ways:
        of_cpu = host.layout(type_name)
        if pointer not in layout or of_cpu is None or member not in of_cpu:
            continue
        bases, ok = _pointers(host, owners, layout[pointer].offset)
        offsets = np.array([o & _WORD for o in space.percpu_offsets], np.uint64)
        bases = bases[ok & (bases != 0)]
        where = (bases[:, None] + offsets[None] + np.uint64(of_cpu[member].offset)).reshape(-1)
        size = min(of_cpu[member].size, items)  # s8 each
        rows, read = host.read_many(where, size)
        total[:size] = rows[read].view(np.int8).astype(np.int64).sum(axis=0)
        return total, int((~read).sum()) + int((~ok).sum())
    return total, 0


def _pointers(host: Host, owners: list[int], offset: int) -> tuple[Words, Mask]:
    where: Addresses = np.array(owners, np.uint64) + np.uint64(offset)
    return words_at(host, where)

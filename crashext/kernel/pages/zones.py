"""Memory nodes, and the free pages that their zones keep on per-CPU lists.

Sources: include/linux/mmzone.h (per_cpu_pages), mm/page_alloc.c (4.19 to 6.12).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import u64, variable, words_at
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.memmap import MemoryMap

_MAX_ZONES = 5 * 1024
_COSTLY_ORDER = 3  # PAGE_ALLOC_COSTLY_ORDER


def pcp_pages(
    host: Host, memory: MemoryMap, space: AddressSpace, links: dict[int, int], node_at: int
) -> NDArray[np.int64]:
    """Page frames on the per-CPU free lists of every zone, ascending."""
    pages: dict[int, int] = {}  # list node of a page -> order of its block
    for head, order in _pcp_heads(host, space):
        try:
            at = u64(host, head)
        except ReadFault:  # a list that cannot be read costs its pages only
            continue
        while at in links and at not in pages:
            pages[at] = order
            at = links[at]
    nodes = np.fromiter(pages, np.uint64, len(pages))
    orders = np.fromiter(pages.values(), np.int64, len(pages))
    first, ok = memory.pfns_of(nodes - np.uint64(node_at))
    blocks = zip(first[ok].astype(np.int64).tolist(), orders[ok].tolist(), strict=True)
    every = [np.arange(pfn, pfn + (1 << order), dtype=np.int64) for pfn, order in blocks]
    return distinct(np.concatenate(every)) if every else np.zeros(0, np.int64)


def _pcp_heads(host: Host, space: AddressSpace) -> list[tuple[int, int]]:
    """Addresses of the list_heads of every per_cpu_pages, and the order of what is on each."""
    zone, pages = host.layout("struct zone"), host.layout("struct per_cpu_pages")
    node = host.layout("struct pglist_data")
    if zone is None or pages is None or node is None or "lists" not in pages:
        return []
    # 28f836b6777b (5.14) split per_cpu_pageset; before, its first member is the per_cpu_pages.
    member = zone.first_of("per_cpu_pageset", "pageset")
    if member is None or "node_zones" not in node or not zone.size:
        return []
    zones = node["node_zones"].size // zone.size
    where = [
        start + node["node_zones"].offset + i * zone.size + member.offset
        for start in node_addresses(host)
        for i in range(zones)
    ][:_MAX_ZONES]
    if not where:
        return []
    pointers, ok = words_at(host, np.array(where, np.uint64))
    lists = pages["lists"]
    count = min(lists.size // 16, 64)
    kinds = host.enumerator("MIGRATE_PCPTYPES") or count
    huge = space.page_shift - 3
    return [
        ((int(pointer) + cpu + lists.offset + 16 * i) & (1 << 64) - 1, _pcp_order(i, kinds, huge))
        for pointer in pointers[ok & (pointers != 0)]
        for cpu in space.percpu_offsets
        for i in range(count)
    ]


def _pcp_order(number: int, kinds: int, huge: int) -> int:
    """Order of the blocks on a per-CPU list: pindex_to_order() in mm/page_alloc.c.

    44042b449872 (5.14) keeps orders up to 3 there, one list a migrate type, and then huge pages:
    as many as one page of a table has entries.
    """
    order = number // kinds
    return order if order <= _COSTLY_ORDER else huge


def node_addresses(host: Host) -> list[int]:
    """Addresses of the pglist_data of every memory node."""
    table = host.address_of("node_data")
    if table is None:
        single = host.address_of("contig_page_data")
        return [] if single is None else [single]
    count = min(variable(host, "nr_node_ids", 4) or 1, 1024)
    values, ok = words_at(host, np.uint64(table) + np.arange(count, dtype=np.uint64) * np.uint64(8))
    return [int(v) for v in values[ok] if v]

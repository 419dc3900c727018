"""page_ext: what the kernel notes of page frames beside their struct pages, whose part is where.

What is in the parts is for `pageowner` and `allocprofile` to say. Sources: mm/page_ext.c
lookup_page_ext(), include/linux/page_ext.h (4.9, 4.19, 6.1, 6.12).
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Addresses, Host, Mask
from crashext.kernel.access import Words, words_at
from crashext.kernel.pages.shifted import shifted_bases

_MAX_ORDER_PAGES = 1024
_WORD = (1 << 64) - 1


def client_offset(host: Host, operations: str) -> int | None:
    """Where in a page's page_ext the part of the client is whose page_ext_operations the variable
    `operations` is; None where it has none, as before 4.10."""
    layout, at = host.layout("struct page_ext_operations"), host.address_of(operations)
    if layout is None or at is None or "offset" not in layout:
        return None
    offsets, there = words_at(host, np.array([(at + layout["offset"].offset) & _WORD], np.uint64))
    return int(offsets[0]) if there[0] else None


def page_exts(host: Host, pfns: Words, size: int) -> tuple[Addresses, Mask]:
    """Where the page_ext of each page frame is, `size` bytes each: ``(uint64[n], ok[n])``."""
    section = host.layout("struct mem_section")
    if section is not None and "page_ext" in section:
        bases, ok = shifted_bases(host, pfns, "page_ext")
        return bases + pfns * np.uint64(size), ok
    return _flat(host, pfns, size)


def _flat(host: Host, pfns: Words, size: int) -> tuple[Addresses, Mask]:
    """Entries of a machine with one node and no sections."""
    node, layout = host.address_of("contig_page_data"), host.layout("struct pglist_data")
    bad = np.zeros(len(pfns), np.uint64), np.zeros(len(pfns), np.bool_)
    if node is None or layout is None or "node_page_ext" not in layout:
        return bad
    wanted = [(node + layout[m].offset) & _WORD for m in ("node_page_ext", "node_start_pfn")]
    values, ok = words_at(host, np.array(wanted, np.uint64))
    if not ok.all() or not values[0]:
        return bad
    first = values[1] & ~np.uint64(_MAX_ORDER_PAGES - 1)
    return values[0] + (pfns - first) * np.uint64(size), pfns >= values[1]

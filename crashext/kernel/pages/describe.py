"""What a page frame is used for, as its struct page says. No slab knowledge here."""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Host
from crashext.kernel.access import column
from crashext.kernel.addresses import PAGE_SHIFT
from crashext.kernel.memmap import MemoryMap


def describe_page(host: Host, memory: MemoryMap, pfn: int) -> str:
    """A page frame in words: free, anonymous, page cache, page table, reserved or kernel's own.

    Sources: include/linux/page-flags.h, mm_types.h (4.19 to 6.12).
    """
    layout = host.layout("struct page")
    rows, ok = memory.rows(np.array([pfn], np.uint64))
    if layout is None or not ok[0]:
        return f"page frame {pfn:#x}, whose struct page is not in the dump"

    def field(*names: str) -> int | None:
        member = layout.first_of(*names) if layout else None
        return None if member is None else int(column(rows, member)[0])

    def has(flag: str) -> bool:
        bit = host.enumerator(flag)
        return bit is not None and bool((field("flags") or 0) >> bit & 1)

    what = f"page frame {pfn:#x} ({pfn << PAGE_SHIFT:#x} physical)"
    if has("PG_reserved"):
        return f"{what}: reserved, kernel image or boot memory"
    if field("_refcount", "_count") == 0:
        return f"{what}: free, or part of a larger allocation"
    mapping = field("mapping") or 0
    if mapping & 1 and (has("PG_swapbacked") or has("PG_lru")):
        return f"{what}: anonymous user memory"
    if has("PG_lru") and mapping:
        return f"{what}: page cache of a file"
    return f"{what}: allocated by the kernel, not from a slab"

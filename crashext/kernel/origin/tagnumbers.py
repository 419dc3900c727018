"""Allocation tags of pages that are numbers in struct page's flags, not pointers in page_ext.

So it is with sysctl.vm.mem_profiling=1,compressed: the kernel's own tags first, then those of all
modules, which lie in one area. Sources: include/linux/pgalloc_tag.h idx_to_ref(), lib/alloc_tag.c
alloc_tag_sec_init() (6.13: 4835f747d335).
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words, column, u64, variable
from crashext.kernel.memmap import MemoryMap

_FIRST = 2  # CODETAG_ID_FIRST: 0 is none, 1 CODETAG_ID_EMPTY
_BITS = 64


def numbered_tags(memory: MemoryMap, pfns: Words) -> Words | None:
    """Address of the struct codetag of the allocation that each page frame begins, 0 where none is
    noted: uint64[n]; None where this kernel does not number them."""
    host = memory.host
    page, tag = host.layout("struct page"), host.layout("struct alloc_tag")
    # Set at boot, where tags are numbered: 0 else.
    mask, shift = variable(host, "alloc_tag_ref_mask"), variable(host, "alloc_tag_ref_offs", 4)
    if page is None or tag is None or not tag.size or not mask or shift is None or shift >= _BITS:
        return None
    kernel = _numbers(host, "kernel_tags", "alloc_tag_kernel_section", ("first_tag", "count"))
    if kernel is None:
        return None
    modules = _numbers(host, "module_tags", "alloc_tag_module_section", ("start_addr", "size"))
    (first, count), (start, size) = kernel, modules or (0, 0)
    rows, ok = memory.rows(pfns)
    number = column(rows, page["flags"]) >> np.uint64(shift) & np.uint64(mask)
    noted = ok & (number >= _FIRST)
    # As a negative index would be: past all.
    index = number - np.uint64(_FIRST)
    own = index < count
    after = index - np.uint64(count)
    noted &= own | (after < size // tag.size)
    base = np.where(own, np.uint64(first), np.uint64(start))
    place = base + np.where(own, index, after) * np.uint64(tag.size)
    return np.where(noted, place + np.uint64(tag["ct"].offset), np.uint64(0))


def _numbers(host: Host, name: str, kind: str, members: tuple[str, str]) -> tuple[int, int] | None:
    """Two members of a variable; None where there is none of it."""
    layout, at = host.layout(f"struct {kind}"), host.address_of(name)
    if layout is None or at is None or not all(member in layout for member in members):
        return None
    try:
        first, second = (u64(host, at + layout[member].offset) for member in members)
    except ReadFault:
        return None
    return first, second

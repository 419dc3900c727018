"""Page frames of page tables that no counter has: the kernel's own, and the upper user levels.

NR_PAGETABLE counts tables that went through a constructor: user PTE and PMD tables only, until
constructors came to the other levels (6.16, and 6.17 for the kernel's). What is found here may be
counted already: `Frames` says TABLE of those.

Sources: arch/x86/mm/pgtable.c, arch/x86/include/asm/pgalloc.h (4.19 to 6.12). x86-64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host
from crashext.kernel.access import Words
from crashext.kernel.addresses import PAGE_SHIFT, PAGE_SIZE, AddressSpace
from crashext.kernel.lists import entries
from crashext.kernel.memmap import MemoryMap

_PRESENT, _HUGE = np.uint64(1), np.uint64(1 << 7)
_FRAME = np.uint64(0x000FFFFFFFFFF000)
_HALF = 256  # entries of the top level that are user space's
_MAX_TABLES = 1 << 20
_MAX_PROCESSES = 1 << 18
_BATCH = 1 << 10


def kernel_tables(host: Host, space: AddressSpace) -> NDArray[np.int64]:
    """Page frames of the tables that map kernel space, below the top: int64[n], ascending."""
    root = host.address_of("init_top_pgt") or host.address_of("init_level4_pgt")
    if root is None:
        return np.zeros(0, np.int64)
    rows, ok = host.read_many(np.array([root], np.uint64), PAGE_SIZE)
    entry = np.ascontiguousarray(rows[ok]).view("<u8").reshape(-1)[_HALF:]
    return _below(host, space, entry, levels=4 if _five_levels(host) else 3)


def user_tops(host: Host, space: AddressSpace, memory: MemoryMap) -> NDArray[np.int64]:
    """Page frames of the upper levels of every process's tables: int64[n], ascending."""
    page, head = host.layout("struct page"), host.address_of("pgd_list")
    link = page.first_of("lru") if page is not None else None
    if link is None or head is None:
        return np.zeros(0, np.int64)
    maps = np.fromiter(entries(host, head, link.offset, _MAX_PROCESSES), np.uint64)
    pfns, ok = memory.pfns_of(maps)
    tops = pfns[ok]
    if not len(tops):
        return np.zeros(0, np.int64)
    rows, ok = host.read_many(space.addresses(tops), PAGE_SIZE)
    entry = np.ascontiguousarray(rows[ok]).view("<u8").reshape(-1, 512)[:, :_HALF].reshape(-1)
    below = _below(host, space, entry, levels=2 if _five_levels(host) else 1)
    found = [tops.astype(np.int64), below]
    if host.address_of("pti_init") is not None:  # d9e9a6418065 (4.15): a second top for user mode
        found.append(tops[tops & np.uint64(1) == 0].astype(np.int64) + 1)
    return np.unique(np.concatenate(found))


def _five_levels(host: Host) -> bool:
    return host.info().vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0") == "1"


def _below(host: Host, space: AddressSpace, entry: Words, levels: int) -> NDArray[np.int64]:
    """Frames of the tables that entries of an upper table lead to, so many levels deep."""
    found: list[NDArray[np.int64]] = []
    limit = (space.direct.end - space.direct.start) >> PAGE_SHIFT
    total = 0
    for level in range(levels):
        is_table = (entry & _PRESENT == _PRESENT) & (entry & _HUGE == 0)
        frames = np.unique((entry[is_table] & _FRAME) >> np.uint64(PAGE_SHIFT))
        frames = frames[frames < np.uint64(limit)]
        total += len(frames)
        if not len(frames) or total > _MAX_TABLES:
            break
        found.append(frames.astype(np.int64))
        if level == levels - 1:
            break
        pieces = []
        for first in range(0, len(frames), _BATCH):
            rows, ok = host.read_many(space.addresses(frames[first : first + _BATCH]), PAGE_SIZE)
            words = np.ascontiguousarray(rows[ok]).view("<u8").reshape(-1)
            pieces.append(words[words & _PRESENT == _PRESENT])
        entry = np.concatenate(pieces)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

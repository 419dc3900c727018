"""Page frames of page tables that no counter has: the kernel's own, and the upper user levels.

NR_PAGETABLE counts tables that went through a constructor that does so: user PTE tables, and PMD
tables since b2b29d6d0119 (5.9), until constructors came to the other levels (6.16, and 6.17 for the
kernel's). What is found here may be counted already: `Frames` says TABLE of those.

Sources: arch/x86/mm/pgtable.c, arch/x86/include/asm/pgalloc.h, arch/arm64/mm/pgd.c (4.19 to 6.12).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct, without
from crashext.hosts.base import Host, Mask, ReadFault
from crashext.kernel.access import Words, column, require, u64
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.byframe import ByFrame
from crashext.kernel.lists import entries
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.pages.pagetables import Format, rows_of, table_format

_ISOLATION = ("pti_init", "kaiser_init")
"""Of kernels with a second top table for user mode, behind the first: d9e9a6418065 (4.15), and what
vendors' older kernels have of it. Its kernel part has tables of its own."""
_MAX_TABLES = 1 << 20
_MAX_PROCESSES = 1 << 18
_BATCH = 1 << 10
_FEW = 64
"""Processes whose tables tell what is marked of everybody's."""


def kernel_tables(host: Host, space: AddressSpace) -> NDArray[np.int64]:
    """Page frames of the tables that map kernel space, below the top: int64[n], ascending."""
    form = table_format(host)
    if form is None:
        return np.zeros(0, np.int64)
    top = rows_of(host, np.array([form.root, *form.others], np.uint64), form.top)
    return _below(host, space, form, top[:, form.kernel :].reshape(-1), len(form.shifts) - 1)


def user_tops(
    host: Host, space: AddressSpace, memory: MemoryMap, use: ByFrame[np.uint8]
) -> NDArray[np.int64]:
    """Page frames of the levels of every process's tables that have no counter, given what struct
    pages say: int64[n], ascending."""
    form = table_format(host)
    if form is None:
        return np.zeros(0, np.int64)
    where = _tops(host, space, memory, form)
    tops = space.frames(where - np.uint64(space.direct.start))
    # The last level has a counter, and the one before where the kernel marks it.
    levels = len(form.shifts) - (3 if _middle_marked(host, space, form, where, use) else 2)
    found = [tops.astype(np.int64), _of_users(host, space, form, where, levels)]
    if any(host.address_of(name) is not None for name in _ISOLATION):
        pairs = _in_pairs(host, memory, tops)
        found.append(tops[pairs].astype(np.int64) + 1)
        second = _seconds(host, form, where[pairs], space.page_size)
        second = np.append(second, np.uint64(form.root + space.page_size))
        rows = rows_of(host, second, form.top)[:, form.kernel :].reshape(-1)
        found.append(_below(host, space, form, rows, len(form.shifts) - 1))
    return distinct(np.concatenate(found))


def _middle_marked(
    host: Host, space: AddressSpace, form: Format, tops: Words, use: ByFrame[np.uint8]
) -> bool:
    """Whether struct pages tell PMD tables, the last level but one."""
    both, upper = (_of_users(host, space, form, tops[:_FEW], len(form.shifts) - n) for n in (2, 3))
    middle = without(both, upper)
    known = use[middle[middle < len(use)]]
    marked = int((known == FrameUse.TABLE).sum())
    # Most of them: an entry that is damaged, or was read while it changed, leads anywhere.
    return not len(known) or 2 * marked > len(known)


def _in_pairs(host: Host, memory: MemoryMap, tops: Words) -> Mask:
    """Top tables whose allocation has the page behind them too: it counts no references of its own.
    Where isolation is off, that page is anybody's since 6.15."""
    page = require(host, "struct page", "flags")
    count = page.first_of("_refcount", "_count")
    even = tops & np.uint64(1) == 0
    if count is not None and len(tops):
        rows, ok = memory.rows(tops + np.uint64(1))
        even &= ~ok | (column(rows, count) == 0)
    return np.asarray(even, np.bool_)


def _seconds(host: Host, form: Format, tops: Words, page: int) -> Words:
    """The second top tables that are in use: they lead where the first do for user space."""
    both, ok = host.read_many(np.append(tops, tops + np.uint64(page)), 8 * form.kernel)
    first, second = np.ascontiguousarray(both).view("<u8").reshape(2, -1, form.kernel)
    users = form.physical(first)
    same = (users == form.physical(second)).all(axis=1) & (users != 0).any(axis=1)
    return np.asarray((tops + np.uint64(page))[same & ok.reshape(2, -1).all(axis=0)], np.uint64)


def unmarked_tables(host: Host, space: AddressSpace, memory: MemoryMap) -> NDArray[np.int64]:
    """Page frames of the last level of every process's tables, which is counted, where the kernel
    does not mark it: before 1d40a5ea01d5 (4.18) gave it a page type. int64[n], ascending."""
    page, form = host.layout("struct page"), table_format(host)
    if page is None or "page_type" in page or form is None:
        return np.zeros(0, np.int64)
    tops = _tops(host, space, memory, form)
    every, upper = (_of_users(host, space, form, tops, len(form.shifts) - n) for n in (1, 2))
    return without(every, upper)


def _of_users(
    host: Host, space: AddressSpace, form: Format, tops: Words, levels: int
) -> NDArray[np.int64]:
    """Frames of the tables below user space's part of top tables; the kernel's is everybody's."""
    end = form.kernel or None
    entry = rows_of(host, tops, form.top)[:, :end].reshape(-1)
    return _below(host, space, form, entry, levels)


def _tops(host: Host, space: AddressSpace, memory: MemoryMap, form: Format) -> Words:
    """Address of every process's top table, which may be smaller than a page."""
    return (
        space.addresses(_listed_tops(host, memory)) if form.kernel else _tops_of_tasks(host, space)
    )


def _listed_tops(host: Host, memory: MemoryMap) -> Words:
    """Page frames of all top tables, which x86 keeps a list of."""
    page, head = host.layout("struct page"), host.address_of("pgd_list")
    link = page.first_of("lru") if page is not None else None
    if link is None or head is None:
        return np.zeros(0, np.uint64)
    maps = np.fromiter(entries(host, head, link.offset, _MAX_PROCESSES), np.uint64)
    pfns, ok = memory.pfns_of(maps)
    return pfns[ok]


def _tops_of_tasks(host: Host, space: AddressSpace) -> Words:
    """Addresses of the top tables of the tasks on the task list; smaller than a page, some."""
    found = {top for top in _tables_of_tasks(host) if space.direct.start <= top < space.direct.end}
    return np.array(sorted(found), np.uint64)


def _tables_of_tasks(host: Host) -> Iterator[int]:
    task, mm = host.layout("struct task_struct"), host.layout("struct mm_struct")
    first = host.address_of("init_task")
    if task is None or mm is None or first is None or "pgd" not in mm:
        return
    if any(member not in task for member in ("tasks", "active_mm")):
        return
    try:
        for one in entries(
            host, first + task["tasks"].offset, task["tasks"].offset, _MAX_PROCESSES
        ):
            memory = u64(host, one + task["active_mm"].offset)
            if memory:
                yield u64(host, memory + mm["pgd"].offset)
    except ReadFault:
        return


def _below(
    host: Host, space: AddressSpace, form: Format, entry: Words, levels: int
) -> NDArray[np.int64]:
    """Frames of the tables that entries of an upper table lead to, so many levels deep."""
    found: list[NDArray[np.int64]] = []
    limit = (space.direct.end - space.direct.start) >> space.page_shift
    total = 0
    for level in range(levels):
        frames = distinct(space.frames(form.physical(entry[form.leads_on(entry)])))
        frames = frames[frames < np.uint64(limit)]
        total += len(frames)
        if not len(frames) or total > _MAX_TABLES:
            break
        found.append(frames.astype(np.int64))
        if level == levels - 1:
            break
        pieces = []
        for first in range(0, len(frames), _BATCH):
            words = rows_of(
                host, space.addresses(frames[first : first + _BATCH]), space.page_size // 8
            )
            pieces.append(words[form.present(words)])
        entry = np.concatenate(pieces)
    return distinct(np.concatenate(found)) if found else np.zeros(0, np.int64)

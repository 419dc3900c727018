"""Which virtual addresses crash must not be asked for: their page tables are not in the dump.

crash translates vmalloc, vmemmap and module addresses itself, and jumps to its prompt when a table
on the way cannot be read, over the frames of whoever asked. x86-64 only; contents are not looked
at, and neither is the direct map, which crash translates by arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Addresses, Mask

Tables = NDArray[np.uint64]  # uint64[n, 512]

_ENTRIES = 512
_PRESENT, _LARGE = np.uint64(1), np.uint64(0x80)
_FRAME = np.uint64(0x000F_FFFF_FFFF_F000)
_MOST = 1 << 16  # tables: those of 64 TiB of vmalloc and vmemmap are fewer
_LARGEST_PAGE = 30  # 1 GiB


def untranslatable(
    top: Tables,
    read: Callable[[Addresses], Tables],
    held: Callable[[Addresses], Mask],
    five_levels: bool,
    skip: tuple[int, int],
) -> list[tuple[int, int]]:
    """Ranges [start, end) of kernel addresses whose tables are missing, in order.

    `top` is the kernel's top table, `read` reads tables at physical addresses that are `held`;
    `skip` is the direct map. Where most of the tables seem to be missing, it is the entries that
    were not understood (encrypted memory), and nothing is said.
    """
    shifts = (48, 39, 30, 21) if five_levels else (39, 30, 21)
    tables, bases = top.copy(), np.array([(1 << 64) - (1 << (shifts[0] + 9))], np.uint64)
    tables[:, : _ENTRIES // 2] = 0  # user memory
    found: list[tuple[int, int]] = []
    seen = 0
    for shift in shifts:
        used = tables & _PRESENT != 0
        if shift <= _LARGEST_PAGE:
            used &= tables & _LARGE == 0
        row, column = np.nonzero(used)
        start = bases[row] + (column.astype(np.uint64) << np.uint64(shift))
        last = start + np.uint64((1 << shift) - 1)
        wanted = ~((start >= np.uint64(skip[0])) & (last < np.uint64(skip[1])))
        start, child = start[wanted], (tables[row, column] & _FRAME)[wanted]
        there = held(child)
        seen += len(child)
        found += [(int(s), int(s) + (1 << shift)) for s in start[~there]]
        if seen > _MOST or not there.any():
            break
        if shift != shifts[-1]:
            tables, bases = read(child[there]), start[there]
    return sorted(found) if 2 * len(found) < seen else []

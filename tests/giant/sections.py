"""Sections of the memory map: the kernel's table of them, and the page tables of vmemmap."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from .kernel import Kernel
from .pages import PAGES, Rows, Workspace

_MAP = 2 << 20
"""Bytes of struct pages of a section."""


def add_sections(
    kernel: Kernel,
    work: Workspace,
    reserved: Rows,
    numbers: NDArray[np.int64],
    targets: NDArray[np.uint64],
) -> None:
    """Sections `numbers`, ascending, whose struct pages are at the physical addresses `targets`."""
    _table(kernel, work, reserved, numbers)
    _direct_map(kernel, work, reserved, np.unique(numbers >> 3))
    # Tables of the third level: one a gigabyte of struct pages, and two above it at most.
    gigabytes = len(np.unique(numbers >> 9)) + 4
    spare = (work.take(gigabytes, reserved) + 4096 * np.arange(gigabytes)).astype(np.int64)
    tables = iter(spare.tolist())
    start = kernel.space.vmemmap.start
    at = 0
    for _, some in groupby(_stretches(numbers, start), lambda s: s):
        count = len(list(some))
        first = start + int(numbers[at]) * _MAP
        kernel.map_large(first, targets[at : at + count], tables)
        at += count


def _direct_map(
    kernel: Kernel, work: Workspace, reserved: Rows, gigabytes: NDArray[np.int64]
) -> None:
    """Map the gigabytes of physical memory with these numbers, ascending, where the kernel does.

    Who believes page tables alone (makedumpfile, crash, drgn) finds them so.
    """
    count = int(gigabytes[-1] >> 9) + 2
    spare = (work.take(count, reserved) + 4096 * np.arange(count)).astype(np.int64)
    tables = iter(spare.tolist())
    for number in gigabytes.tolist():
        kernel.map_gigabyte(kernel.space.direct.start, number, tables)


def _stretches(numbers: NDArray[np.int64], start: int) -> list[int]:
    """For each section a number that neighbours share which one table leads to."""
    table = (start % (1 << 39) + numbers * _MAP) >> 30
    fresh = (np.diff(numbers, prepend=-2) != 1) | (np.diff(table, prepend=-1) != 0)
    return [int(n) for n in np.cumsum(fresh)]


def _table(kernel: Kernel, work: Workspace, reserved: Rows, numbers: NDArray[np.int64]) -> None:
    """mem_section's entries; all like the first section's, as every map begins at vmemmap."""
    notes = kernel.host.info().vmcoreinfo
    size = int(notes["SIZE(mem_section)"])
    per_root = 4096 // size
    roots = int(notes["SYMBOL(mem_section)"], 16)
    entry = kernel.image.read(kernel.physical(kernel.read(roots)), size)
    for root in np.unique(numbers // per_root).tolist():
        here = numbers[numbers // per_root == root] % per_root
        at = kernel.read(roots + 8 * root)
        if not at:
            at = work.address(work.take(1, reserved))
            kernel.write(roots + 8 * root, at)
        page = np.frombuffer(kernel.image.read(kernel.physical(at), 4096), np.uint8).copy()
        table = page.reshape(per_root, size)
        table[here] = np.frombuffer(entry, np.uint8)
        kernel.image.write(kernel.physical(at), page)


assert PAGES * 64 == _MAP

"""Per-CPU memory: how much there is, what of it comes from boot memory, and counters kept in it.

The first chunk is taken from boot memory, which MemTotal leaves out; all others are page frames
mapped into vmalloc space. Sources: mm/percpu.c, mm/percpu-internal.h, mm/percpu-vm.c (4.14 to
6.12), include/linux/percpu_counter.h. Kernels with percpu-km (no MMU) are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import u64, variable
from crashext.kernel.addresses import AddressSpace, page_size
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.pagetables import physical

CALLERS = ("pcpu_get_vm_areas", "pcpu_create_chunk")
"""Who asks for the areas of chunks."""
_MAX_PAGES = 1 << 22
_PIECE = 1 << 16
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class PerCpu:
    """Pages of per-CPU memory, of all CPUs."""

    pages: int
    """Populated: meminfo's Percpu."""
    boot: int
    """Those of the first chunk, outside MemTotal."""


def read_percpu(host: Host) -> PerCpu | None:
    """None where this kernel does not count them (before 7e8a6304d541, 4.19)."""
    populated, units = variable(host, "pcpu_nr_populated"), variable(host, "pcpu_nr_units", 4)
    if populated is None or not units:
        return None
    return PerCpu(populated * units, _first_unit(host) * units)


def _first_unit(host: Host) -> int:
    """Pages of a unit of the first chunk: the static, the reserved and its dynamic part."""
    chunk, base = variable(host, "pcpu_first_chunk"), variable(host, "pcpu_base_addr")
    layout = host.layout("struct pcpu_chunk")
    if not chunk or not base or layout is None:
        return 0
    if any(m not in layout for m in ("base_addr", "nr_pages", "end_offset")):
        return 0
    try:
        start = u64(host, chunk + layout["base_addr"].offset)
        pages, end = (
            int.from_bytes(host.read(chunk + layout[m].offset, 4), "little")
            for m in ("nr_pages", "end_offset")
        )
    except ReadFault:
        return 0
    size = page_size(host)
    return max(0, start + pages * size - end - base) // size


def percpu_frames(host: Host, space: AddressSpace, areas: Areas) -> NDArray[np.int64]:
    """Page frames behind all chunks but the first: int64[n], ascending."""
    # An area with pages of its own is vmalloc()'s: the bookkeeping of a chunk.
    mine = np.isin(areas.caller, _chunk_callers(host, areas)) & (areas.pages == 0)
    rows = np.flatnonzero(mine)
    found: list[NDArray[np.int64]] = []
    left = _MAX_PAGES
    for row in rows.tolist():
        start, end = int(areas.start[row]), int(areas.end[row])
        count = min((end - start) >> space.page_shift, left)
        left -= count
        for first in range(0, count, _PIECE):
            pages = np.arange(first, min(first + _PIECE, count), dtype=np.uint64)
            where = np.uint64(start) + (pages << np.uint64(space.page_shift))
            at, ok = physical(host, space, where)
            found.append((at[ok] >> np.uint64(space.page_shift)).astype(np.int64))
    return distinct(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _chunk_callers(host: Host, areas: Areas) -> NDArray[np.uint64]:
    callers = []
    for caller in distinct(areas.caller[areas.caller != 0]).tolist():
        symbol = host.symbol_at(caller)
        if symbol is not None and symbol.name.split(".", 1)[0] in CALLERS:
            callers.append(caller)
    return np.array(callers, np.uint64)


def percpu_sum(host: Host, space: AddressSpace, address: int) -> int | None:
    """Value of a struct percpu_counter, what CPUs have not folded in included."""
    layout = host.layout("struct percpu_counter")
    if layout is None or "count" not in layout:
        return None
    try:
        row = host.read(address, layout.size)
    except ReadFault:
        return None
    at = layout["count"].offset
    total = int.from_bytes(row[at : at + 8], "little", signed=True)
    if "counters" not in layout:  # CONFIG_SMP=n
        return total
    at = layout["counters"].offset
    pointer = int.from_bytes(row[at : at + 8], "little")
    if not pointer:
        return total
    offsets = np.array([(pointer + o) & _WORD for o in space.percpu_offsets], np.uint64)
    values, ok = host.read_many(offsets, 4)
    return total + int(np.ascontiguousarray(values[ok]).view("<i4").sum())

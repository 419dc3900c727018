"""Pages straight from the page allocator whose owners keep a list: tracing, and the stack depot.

No counter has them, and tracing buffers and the depot may grow to gigabytes: without their names
they would look like a leak. Of trace buffers beyond 512 MiB the rest stays without a name.

Sources: kernel/trace/ftrace.c, ring_buffer.c, trace.h, lib/stackdepot.c (5.10 to 6.12). What this
kernel does not lay out as they do is not taken off, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.hosts.base import Host, Layout, Member, ReadFault
from crashext.kernel.access import require, u64, variable, words_at
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.lacking import Lacking
from crashext.kernel.lists import entries

_MAX_GROUPS = 1 << 16
_MAX_INSTANCES = 1 << 10
_MAX_BUFFER_PAGES = 1 << 17  # 512 MiB: a link is a read, and more would take seconds
_MAX_POOLS = 1 << 17
_POOL_ORDER = 2  # DEPOT_POOL_ORDER, STACK_ALLOC_ORDER before 6.3
_MAX_ORDER = 10
_FLAGS = 3  # low bits of a link between buffer pages: RB_PAGE_HEAD, RB_PAGE_UPDATE


def raw_pages(host: Host, space: AddressSpace, lacking: Lacking) -> NDArray[np.int64]:
    """Page frames of ftrace's records, of trace buffers, and of the stack depot: ascending."""
    found: list[tuple[int, int]] = []
    for what, source in (
        ("ftrace's records", _ftrace_records),
        ("trace buffers", _trace_buffers),
        ("the stack depot", _depot_pools),
    ):
        with suppress(ReadFault), lacking.leaves_out(f"pages of {what} count as unaccounted"):
            found.extend(source(host, space))
    frames = [
        np.arange(space.pfn(address), space.pfn(address) + pages, dtype=np.int64)
        for address, pages in found
        if space.direct.start <= address < space.direct.end
    ]
    return distinct(np.concatenate(frames)) if frames else np.zeros(0, np.int64)


def _ftrace_records(host: Host, space: AddressSpace) -> Iterator[tuple[int, int]]:
    """(address, pages) of each group of dyn_ftrace records: one for each traceable function."""
    at = variable(host, "ftrace_pages_start")
    if not at:
        return
    layout, record = require(host, "struct ftrace_page"), require(host, "struct dyn_ftrace")
    for _group in range(_MAX_GROUPS):
        if not at:
            return
        row = host.read(at, layout.size)
        order = _number(row, layout, "order")
        if order is not None:
            pages = 1 << order if order <= _MAX_ORDER else 0
        else:  # a count of records, before there was an order
            size = _taken(row, layout["size"]) * record.size
            pages = min(-(-size // space.page_size), 1 << _MAX_ORDER)
        yield _taken(row, layout["records"]), pages
        at = _taken(row, layout["next"])


def _number(row: bytes, layout: Layout, name: str) -> int | None:
    return _taken(row, layout[name]) if name in layout else None


def _taken(row: bytes, member: Member) -> int:
    return int.from_bytes(row[member.offset : member.offset + member.size], "little")


def _trace_buffers(host: Host, space: AddressSpace) -> Iterator[tuple[int, int]]:
    """(address, pages) of every page of every CPU of every tracing instance."""
    head, holder = host.address_of("ftrace_trace_arrays"), host.layout("struct array_buffer")
    if head is None or holder is None:
        return  # 1c5eb4481e01 (5.8) gave it that name
    instance = require(host, "struct trace_array", "array_buffer")
    left = _MAX_BUFFER_PAGES
    members = [instance[m] for m in ("array_buffer", "max_buffer") if m in instance]
    at = instance["list"].offset
    for array in entries(host, head, at, _MAX_INSTANCES):
        for member in members:
            buffer = u64(host, array + member.offset + holder["buffer"].offset)
            for page in _buffer(host, buffer, len(space.percpu_offsets)) if buffer else ():
                yield page
                left -= 1
                if left <= 0:
                    return


def _buffer(host: Host, buffer: int, cpus: int) -> Iterator[tuple[int, int]]:
    outer, page = require(host, "struct trace_buffer"), require(host, "struct buffer_page")
    inner = require(host, "struct ring_buffer_per_cpu")
    # Sub-buffers of several pages came with 2808e31ec12e (6.8).
    order = 0
    if "subbuf_order" in outer:
        order = int.from_bytes(host.read(buffer + outer["subbuf_order"].offset, 4), "little")
    pages = 1 << order if order <= _MAX_ORDER else 0
    table = u64(host, buffer + outer["buffers"].offset)
    each, ok = words_at(host, np.uint64(table) + np.arange(cpus, dtype=np.uint64) * np.uint64(8))
    for cpu in each[ok & (each != 0)].tolist():
        first = u64(host, cpu + inner["pages"].offset) & ~_FLAGS
        reader = u64(host, cpu + inner["reader_page"].offset)
        # The reader's page is swapped out of the ring.
        yield u64(host, reader + page["page"].offset), pages
        at = first
        for _link in range(_MAX_BUFFER_PAGES):
            start = at - page["list"].offset
            yield u64(host, start + page["page"].offset), pages
            at = u64(host, at) & ~_FLAGS
            if at in (first, 0):
                break


def _depot_pools(host: Host, space: AddressSpace) -> Iterator[tuple[int, int]]:
    """(address, pages) of the stack depot's pools."""
    # Renamed by 961c949b012f (6.3).
    table = host.address_of("stack_pools") or host.address_of("stack_slabs")
    symbol = host.symbol_at(table) if table is not None else None
    if table is not None and symbol is not None and symbol.size == 8:
        table = u64(host, table)  # a pointer to the array, in newer kernels
    last = variable(host, "depot_index", 4)
    if last is None:
        last = variable(host, "pool_index", 4)  # in between; now pools_num
    if last is None:
        last = variable(host, "pools_num", 4)
    if table is None or last is None:
        return
    count = min(last + 2, _MAX_POOLS)  # one may be ready for the next
    where = np.uint64(table) + np.arange(count, dtype=np.uint64) * np.uint64(8)
    pools, ok = words_at(host, where)
    # Pools are aligned to their size; what is behind the array's end hardly is.
    ok &= (pools != 0) & (pools % np.uint64(space.page_size << _POOL_ORDER) == 0)
    for pool in pools[ok].tolist():
        yield int(pool), 1 << _POOL_ORDER

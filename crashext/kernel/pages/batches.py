"""Each CPU's batches of pages on their way to an LRU list: what behind them is stale.

Of a batch the first `nr` pages are in it. Behind them are pages that were: put back long ago, and
somebody else's since.

Sources: mm/swap.c, mm/mlock.c, include/linux/pagevec.h (3.10 to 7.2). struct pagevec became struct
folio_batch in 5.19 and 6.3, and the variables were put together in 5.8 (b01b21419999), and in 6.12.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crashext.hosts.base import Host, Layout
from crashext.kernel.access import Words, column
from crashext.kernel.addresses import AddressSpace

_BATCHES = (("struct folio_batch", "folios"), ("struct pagevec", "pages"))
_TOGETHER = ("cpu_fbatches", "lru_pvecs", "lru_rotate", "mlock_fbatch", "mlock_pvec")
"""Per-CPU variables of a struct that is called like them."""
_ALONE = (
    *("lru_add_pvec", "lru_rotate_pvecs", "lru_deactivate_file_pvecs", "lru_deactivate_pvecs"),
    *("lru_lazyfree_pvecs", "activate_page_pvecs", "mlock_pvec"),
)
"""Per-CPU variables that are a batch."""
_LARGEST = 4096  # bytes; 128 and 256 in the kernels known
_WORD = 1 << 64


def stale_pages(host: Host, space: AddressSpace) -> tuple[Words, Words]:
    """Virtual addresses of what is stale in every CPU's batches: where it begins, and ends."""
    known = [(host.layout(name), member) for name, member in _BATCHES]
    sizes = {layout.size: (layout, m) for layout, m in known if layout is not None and m in layout}
    found = [(np.zeros(0, np.uint64), np.zeros(0, np.uint64))]
    for size, (layout, member) in sizes.items():
        if "nr" not in layout or not layout[member].offset < size <= _LARGEST:
            continue
        places = sorted({*_places(host, size)})
        each = [(p + unit) % _WORD for p in places for unit in space.percpu_offsets]
        at = np.array(each, np.uint64)
        found.append(_stale(host, layout, layout[member].offset, at))
    begin, end = zip(*found, strict=True)
    return np.concatenate(begin), np.concatenate(end)


def _places(host: Host, size: int) -> Iterator[int]:
    """Where batches of that size lie among the per-CPU variables."""
    for name in _TOGETHER:
        layout, at = host.layout(f"struct {name}"), host.address_of(name)
        if layout is not None and at is not None:
            yield from (at + m.offset for m in layout.members.values() if m.size == size)
    for name in _ALONE:
        at = host.address_of(name)
        if at is not None and host.layout(f"struct {name}") is None:
            yield at


def _stale(host: Host, layout: Layout, first: int, at: Words) -> tuple[Words, Words]:
    rows, ok = host.read_many(at, layout.size)
    most = (layout.size - first) // 8
    count = column(rows, layout["nr"])
    ok &= count <= most
    begin = at + np.uint64(first) + count * np.uint64(8)
    return begin[ok], (at + np.uint64(first + 8 * most))[ok]

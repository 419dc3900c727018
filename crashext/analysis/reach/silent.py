"""Words that the kernel uses, that keep an address and hold nothing: ranges of them.

Whoever marks asks here, so that every pass over memory leaves the same words out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Mask
from crashext.kernel.access import Words, column
from crashext.kernel.pages.batches import stale_pages
from crashext.kernel.pages.idleareas import idle_records
from crashext.kernel.pages.numbers import numbers
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.slab.arraycaches import stale_entries
from crashext.kernel.slab.descriptors import slab_fields
from crashext.kernel.slab.sheaves import stale_from
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView

_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Silent:
    """Ranges of direct-map offsets, sorted and apart from each other."""

    begin: Words
    end: Words

    def touches(self, begin: int, end: int) -> bool:
        """Whether any of the direct-map offsets [begin, end) lies in a range."""
        low, high = np.searchsorted(self.begin, np.array([begin, end], np.uint64)).tolist()
        return low < high or (low > 0 and int(self.end[low - 1]) > begin)

    def holds(self, where: Words) -> Mask:
        """Which of the direct-map offsets `where` lie in a range."""
        if not len(self.begin):
            return np.zeros(len(where), np.bool_)
        at = np.searchsorted(self.begin, where, side="right") - 1
        return np.asarray((at >= 0) & (where < self.end[np.maximum(at, 0)]), np.bool_)


def silent_words(view: KernelView, table: SlotTable) -> Silent:
    """All that this kernel has."""
    start = np.uint64(table.start)
    found = (_stale_entries(view, table), _former_structures(view))
    ranges = [(begin - start, end - start) for begin, end in found]
    batches = _offsets(view, *stale_pages(view.host, view.space))
    return _apart([*ranges, _stale_arrays(view), _starts_of_slabs(view), batches])


def silent_numbers(view: KernelView) -> Silent:
    """Those that are silent only about physical addresses."""
    at = numbers(view.host)
    return _apart([_offsets(view, at, at + np.uint64(8))])


def _former_structures(view: KernelView) -> tuple[Words, Words]:
    """The vm_structs that records of free address ranges once had: now memory of others."""
    area = view.host.layout("struct vmap_area")
    if area is None or "vm" not in area:
        return _NONE, _NONE
    at = idle_records(view.host) + np.uint64(area["vm"].offset)
    return at, at + np.uint64(8)


def _stale_entries(view: KernelView, table: SlotTable) -> tuple[Words, Words]:
    """The rest of every sheaf: what stood there was taken out, and may be anybody's."""
    sheaves = np.concatenate([_NONE, *(view.reader(c).sheaves for c in view.caches.all)])
    known, begin = stale_from(view.host, sheaves)
    slot = table.at(known)
    known, begin, slot = known[slot >= 0], begin[slot >= 0], slot[slot >= 0]
    end = table.addresses(slot) + table.length[table.rows(slot)]
    return begin, end


def _stale_arrays(view: KernelView) -> tuple[Words, Words]:
    """The same of SLAB's array caches, many of which are per-CPU memory: direct-map offsets."""
    arrays = np.concatenate([_NONE, *(view.reader(c).arrays for c in view.caches.all)])
    return _offsets(view, *stale_entries(view.host, arrays))


def _starts_of_slabs(view: KernelView) -> tuple[Words, Words]:
    """s_mem of every struct slab outside its slab: it leads to the first slot, whoever has that."""
    fields = slab_fields(view.host)
    if fields.behind is None:
        return _NONE, _NONE
    rows, _, ok = fields.rows_of(view.memory, view.space, view.index.page)
    at = column(rows, fields.behind)[ok] + np.uint64(fields.slab["s_mem"].offset)
    return _offsets(view, at, at + np.uint64(8))


def _offsets(view: KernelView, begin: Words, end: Words) -> tuple[Words, Words]:
    """Direct-map offsets of virtual ranges, in pieces that each lie in one page."""
    some = begin < end
    pieces = [
        (max(a, page), min(b, page + view.space.page_size))
        for a, b in zip(begin[some].tolist(), end[some].tolist(), strict=True)
        for page in range(a & -view.space.page_size, b, view.space.page_size)
    ]
    if not pieces:
        return _NONE, _NONE
    first, last = np.array(pieces, np.uint64).T
    direct = view.space.direct.holds(first)
    where, ok = first - np.uint64(view.space.direct.start), direct.copy()
    where[~direct], ok[~direct] = physical(view.host, view.space, first[~direct])
    return where[ok], (where + last - first)[ok]


def _apart(ranges: Iterable[tuple[Words, Words]]) -> Silent:
    """Sorted, without empty ones; each begin once, with the furthest end."""
    pairs = list(ranges)
    begin = np.concatenate([_NONE, *(b for b, _ in pairs)])
    end = np.concatenate([_NONE, *(e for _, e in pairs)])
    some = begin < end
    order = np.lexsort((end[some], begin[some]))
    begin, end = begin[some][order], end[some][order]
    last = np.append(begin[1:] != begin[:-1], True) if len(begin) else np.zeros(0, np.bool_)
    return Silent(begin[last], end[last])

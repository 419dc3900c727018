"""Words inside allocated objects that keep an address and hold nothing: ranges of them.

Whoever marks asks here, so that every pass over memory leaves the same words out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.pages.idleareas import idle_records
from crashext.kernel.slab.sheaves import stale_from
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView

_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Silent:
    """Ranges of direct-map offsets, sorted and apart from each other."""

    begin: Words
    end: Words

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
    return _apart((begin - start, end - start) for begin, end in found)


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

"""How many objects look unreachable only because a dump lacks pages that the kernel uses.

makedumpfile drops live slab pages of 6.12 and 7.x kernels now and then, and whatever only they
point at looks like an orphan. The memory map still says which cache each of them belongs to, and
the rest of that cache how many objects of every other one such an object points at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.reachability import Reach
from crashext.kernel.slab.objects import State

_TIMES = 2.0
"""Objects that are missing need not be like the average of their cache ..."""
_MORE = 16
"""... and a few may be anything."""
_PIECE = 1 << 20

Numbers = NDArray[np.float64]


def orphans_by_holes(marked: Reach) -> Numbers:
    """float64[caches]: how many heads of each cache the missing pages may account for, at most.

    0 where nothing is missing.
    """
    count = len(marked.view.caches.all)
    coverage = marked.references.coverage
    if not coverage.missing:
        return np.zeros(count)
    missing, present = (_objects(marked, state) for state in (State.UNREADABLE, State.ALLOCATED))
    of, to, times = _edges(marked, count)
    # Of a cache that is missing altogether nothing is known but what objects are like at large.
    everywhere = np.bincount(to, times, count) / max(1.0, float(present.sum()))
    known = present > 0
    each = missing / np.maximum(present, 1)
    expected = np.bincount(to, times * each[of] * known[of], count).astype(np.float64)
    expected += everywhere * missing[~known].sum()
    expected += _from_pages(marked, count) + _in_sheaves(marked)
    return np.asarray(_TIMES * expected + _MORE, np.float64)


def _objects(marked: Reach, state: State) -> Numbers:
    """Slots in this state, by cache."""
    found = marked.table.in_state(state, len(marked.view.caches.all))
    return found.astype(np.float64)


def _edges(marked: Reach, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Numbers]:
    """Pointers from objects of one cache to objects of another: the one, the other, how many.

    Of each pair that there is, and not of all: there may be 20,000 caches.
    """
    table, references = marked.table, marked.references
    pairs, times = [np.zeros(0, np.int64)], [np.zeros(0)]
    for at in range(0, len(references.source), _PIECE):
        source = references.source[at : at + _PIECE].astype(np.int64)
        target = references.target[at : at + _PIECE].astype(np.int64)
        objects = (source < table.count) & (target < table.count)
        of, to = table.caches(source[objects]), table.caches(target[objects])
        some, often = np.unique(of.astype(np.int64) * count + to, return_counts=True)
        pairs.append(some)
        times.append(often.astype(np.float64))
        marked.marks.store.release()
    known, which = np.unique(np.concatenate(pairs), return_inverse=True)
    sums = np.bincount(which, np.concatenate(times), len(known)).astype(np.float64)
    return known // count, known % count, sums


def _from_pages(marked: Reach, count: int) -> Numbers:
    """What missing pages that may be no slabs point at: as much as those that are there."""
    table, references = marked.table, marked.references
    coverage = references.coverage
    lost = coverage.missing - coverage.missing_slab + coverage.unknown
    # Edges are by source.
    elsewhere = references.target[np.searchsorted(references.source, table.count) :]
    target = np.concatenate([references.root_target, elsewhere]).astype(np.int64)
    found = np.bincount(table.caches(target[target < table.count]), minlength=count)
    return np.asarray(found * (lost / max(1, coverage.present)), np.float64)


def _in_sheaves(marked: Reach) -> Numbers:
    """Free objects that look allocated, because the sheaves that hold them cannot be read."""
    host, caches = marked.view.host, marked.view.caches.all
    hidden = np.zeros(len(caches))
    layout = host.layout("struct kmem_cache")
    if layout is None or "sheaf_capacity" not in layout:
        return hidden
    capacity = layout["sheaf_capacity"]
    where = np.array([cache.address + capacity.offset for cache in caches], np.uint64)
    rows, ok = host.read_many(where, 4)
    each = np.where(ok, np.ascontiguousarray(rows).view("<u4").reshape(-1), 0)
    faults = np.array([marked.view.reader(cache).cpu_faults for cache in caches])
    return np.asarray(faults * np.minimum(each, 4096), np.float64)

"""How many objects of each cache are unreachable: counted, or estimated where slabs were drawn.

Whoever lists groups lists the largest; what stands in a headline is from here, from the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.reach.structures import Structures
from crashext.analysis.results.estimate import Estimate, Share, clustered_share
from crashext.analysis.results.evidence import Below, CacheReach, UnreachableCache
from crashext.distinct import distinct, grouped
from crashext.kernel.byframe import spread
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import Slots

_ROWS = 1 << 13


def count(marked: Reach, cache: SlabCache, slots: Slots) -> Estimate:
    """How many unreachable objects the cache has, `slots` being those of the table.

    Where some caches are sampled, what only objects outside the sample point at may be
    unreachable, too.
    """
    number = marked.view.caches.index(cache)
    if not marked.giants:
        return Estimate.known(len(slots))
    if number not in marked.giants:
        unsure_here = sum(int(marked.unsure[some].sum()) for some in _allocated(marked, number))
        return Estimate(len(slots), len(slots), len(slots) + unsure_here)
    members = np.concatenate([np.zeros(0, np.int64), *_allocated(marked, number)])
    unsure = marked.unsure[members]
    share = _share(marked, number, members, slots)
    share = replace(share, high=min(1.0, share.high + float(unsure.mean()) if len(unsure) else 1.0))
    found = share.of(Estimate.known(marked.allocated(cache)))
    if not marked.followed:
        return found
    # All that is in use was read, so the rest is no estimate; old words may hold some that leaked.
    most = marked.allocated(cache) - int(marked.marks.reached[members].sum())
    return Estimate(min(found.estimate, most), min(found.low, most), found.high)


def _share(marked: Reach, number: int, members: Slots, slots: Slots) -> Share:
    """The share of the allocated `members` that are among `slots`; slabs are the sample."""
    table = marked.table
    rows = table.index.rows_of(number)
    sizes, hits = (
        np.bincount(np.searchsorted(rows, table.rows(some)), minlength=len(rows))
        for some in (members, slots)
    )
    sample = (sizes > 0) & np.isin(table.index.address[rows], marked.whole.address[marked.drawn])
    crowd = marked.whole.crowds.get(number)
    clusters = len(marked.whole.rows_of(number)) if crowd is None else crowd.slabs
    return clustered_share(hits[sample], sizes[sample], clusters)


def cache_reach(marked: Reach, cache: SlabCache, weak: Slots) -> CacheReach:
    """What became of a cache's allocated objects; `weak` are those that are weakly held."""
    number, lost, weak_here = marked.view.caches.index(cache), [], []
    allocated = hidden = 0
    for members in _pieces(marked, number):
        classes, state = marked.classes(members), marked.table.state[members]
        named = np.isin(members, weak)
        lost.append(members[((classes == Class.ORPHAN) | (classes == Class.STRUCTURE)) & ~named])
        weak_here.append(members[named])
        hidden += int(np.isin(state, (State.UNKNOWN, State.UNREADABLE)).sum())
        allocated += int((state == State.ALLOCATED).sum())
    if marked.giants:
        allocated = marked.allocated(cache)
    found, weakly = (
        count(marked, cache, np.concatenate([np.zeros(0, np.int64), *some]))
        for some in (lost, weak_here)
    )
    return CacheReach(
        unreachable=found,
        held=_rest(Estimate.known(allocated), found, weakly),
        weak=weakly,
        not_judged=round(hidden * marked.scale(number)),
    )


def _rest(everything: Estimate, *parts: Estimate) -> Estimate:
    """What is left of them; the errors add up."""
    taken = Estimate.sum(parts)
    return Estimate(
        max(0, everything.estimate - taken.estimate),
        max(0, everything.low - taken.high),
        max(0, everything.high - taken.low),
    )


def unreachable_of(marked: Reach, cache: SlabCache) -> Slots:
    """The cache's unreachable objects in the table, ascending."""
    members = _allocated(marked, marked.view.caches.index(cache))
    lost = (some[~marked.marks.reached[some]] for some in members)
    found: Slots = np.concatenate([np.zeros(0, np.int64), *lost])
    return found


def unreachable_counts(marked: Reach, slots: Slots | None = None) -> dict[str, Estimate]:
    """Unreachable objects, or those among `slots`, by cache: those of caches that have some."""
    slots = marked.unreachable() if slots is None else slots
    caches = marked.view.caches.all
    return {
        caches[i].name: count(marked, caches[i], some)
        for i, (some,) in grouped(marked.table.caches(slots), slots)
    }


def by_heads(marked: Reach, found: Structures, explained: Slots) -> tuple[UnreachableCache, ...]:
    """Unreachable objects by the cache of their heads, most bytes first.

    What hangs below `explained` heads is no leak, and left out.
    """
    slots, heads = found.slots, found.head
    if len(explained):
        kept = ~np.isin(heads, explained)
        slots, heads = slots[kept], heads[kept]
    of_slot, of_head = marked.table.caches(slots), marked.table.caches(heads)
    result = [
        _under(marked, number, *some) for number, some in grouped(of_head, slots, of_slot, heads)
    ]
    return tuple(sorted(result, key=lambda c: (-c.bytes, c.cache)))


def _under(
    marked: Reach,
    number: int,
    slots: Slots,
    of_slot: NDArray[np.uint16],
    heads: Slots,
) -> UnreachableCache:
    caches = marked.view.caches.all
    cache = caches[number]
    mine = of_slot == number
    own = slots if mine.all() else slots[mine]
    objects = count(marked, cache, own)
    # Where the cache was sampled, as much hangs below those that were not drawn.
    scale = [n / len(own) for n in (objects.estimate, objects.low, objects.high)]
    others, times = np.unique(of_slot[~mine], return_counts=True)
    counts = dict(zip(others.tolist(), times.tolist(), strict=True))
    below = [
        Below(
            caches[i].name,
            round(number_below * scale[0]),
            round(number_below * scale[0]) * caches[i].slot_size,
        )
        for i, number_below in counts.items()
    ]
    below.sort(key=lambda b: (-b.bytes, b.cache))
    total = sum(counts.values())
    beside = Estimate(
        sum(b.objects for b in below), round(total * scale[1]), round(total * scale[2])
    )
    tops = distinct(heads)
    return UnreachableCache(
        cache=cache.name,
        objects=objects,
        heads=count(marked, cache, tops),
        bytes=objects.estimate * cache.slot_size + sum(b.bytes for b in below),
        others=Estimate.known(beside.estimate) if objects.exact else beside,
        below=tuple(below),
    )


def _allocated(marked: Reach, cache: int) -> Iterator[Slots]:
    """The cache's allocated objects in the table, ascending, some at a time."""
    for members in _pieces(marked, cache):
        yield members[marked.table.state[members] == State.ALLOCATED]


def _pieces(marked: Reach, cache: int) -> Iterator[Slots]:
    """All its slots in the table, some at a time: there may be many millions."""
    every = marked.table.index.rows_of(cache)
    for rows in (every[at : at + _ROWS] for at in range(0, len(every), _ROWS)):
        yield spread(marked.table.first[rows], marked.table.first[rows + 1])
        marked.table.store.release()

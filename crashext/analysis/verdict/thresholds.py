"""From where on numbers are worth a verdict. Shares are of MemTotal, unless it says otherwise."""

from __future__ import annotations

_GIB = 1 << 30

UNREACHABLE_LEAST = 64 << 10
"""Unreachable bytes of one cache below which nobody is accused."""
UNREACHABLE_SHARE = 0.001
"""... and their least share of all slab memory."""
KMEMLEAK_SHARE = 0.005
"""The same of what kmemleak says, which errs about what was just allocated."""
LOST = 0.01
"""Share of kernel memory missing of a damaged dump from which what looks unreachable may be held by
that: the missing pages are neighbours, so that whole tables may be among them."""
AREAS_LEAST = 512 << 10
AREAS_SHARE = 0.001
"""Least share of memory that is in vmalloc areas of one caller that nothing points into."""
AREAS_UNJUDGED_SHARE = 0.10
"""Least share of memory of one caller's areas, where nobody can see what points into them."""
PAGES_LEAST = 512 << 10
PAGES_UNREACHABLE_SHARE = 0.001
"""Least share of memory in blocks of pages that nothing leads to."""
PAGES_HELD_SHARE = 0.10
"""Least share of memory of pages from the page allocator that one root holds."""
PAGES_SHARE = 0.03
"""Least share of memory that nothing accounts for."""
HELD_SHARE = 0.03
"""Least share of memory that one root holds in one cache that cannot be reclaimed ..."""
HELD_OF_SLAB = 0.25
"""... and its least share of the slab memory that cannot be reclaimed."""
BACKLOG_LEAST = 10_000
"""Callbacks that wait for a grace period: a busy healthy machine has some thousands."""
WASTE_SHARE = 0.03
"""Least share of memory in free slots of one cache of which most slots are free."""
RECLAIMABLE_SHARE = 0.10
LITTLE = 0.01
"""Share of memory below which a leak is not why memory is short."""
FEW = 5
"""Verdicts about leaks that are too small to matter."""
USER_SHARE = 0.25
"""Least share of memory that one process, mount or the page cache has."""
TABLES_SHARE = 0.10
HUGETLB_SHARE = 0.05
COUNTER_SHARE = 0.10
"""Least share of memory of a counter with a name: beyond it nobody would call it usual."""
KNOWN_SHARE = 0.03
"""Least share of memory of who says himself that he has it."""
EXPLAINS = 0.05
"""Share of the memory that is gone below which a verdict is not why memory is short."""


def excessive(used: int, total: int) -> bool:
    """SysAK's thresholds for one kind of kernel memory on large machines.

    More than 10 % and 1.5 GiB, or 6 GiB; 10 GiB where there are more than 100 GiB.
    """
    most = 10 * _GIB if total > 100 * _GIB else 6 * _GIB
    return used > most or (used > 1.5 * _GIB and used > total / 10)

"""What a trace says, as plain data: the only thing that passes on to analysis and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.skipped import Skipped
from crashext.trace.callsites import Task
from crashext.trace.names import Ids

OBJECTS, PAGES = "objects", "pages"
"""What a site allocates: slab objects, or pages from the page allocator."""


@dataclass(frozen=True)
class Outstanding:
    """What was allocated in the trace and not freed in it. All arrays have one length."""

    address: NDArray[np.uint64]
    """Sorted. Of slab objects; of pages, their page frame numbers."""
    size: NDArray[np.int64]
    """Bytes allocated."""
    site: NDArray[np.int32]
    """Index into `TraceSummary.sites` (or `.pages`, for pages)."""
    stack: NDArray[np.int32]
    """Index into `TraceSummary.stacks`; 0 is the empty stack: none was recorded."""
    cache: NDArray[np.int32]
    """Index into `TraceSummary.caches`."""
    task: NDArray[np.int32]
    """Index into `TraceSummary.tasks`."""
    time: NDArray[np.int64]
    """Nanoseconds on the trace's clock."""

    def __len__(self) -> int:
        return len(self.address)


@dataclass(frozen=True)
class Site:
    """One place that allocates."""

    function: str
    """``func+0x21``; for pages without stacks ``(pages of order N)``."""
    module: str
    """"" for the kernel image, and where the trace does not say (trace-cmd, perf)."""
    what: str
    """`OBJECTS` or `PAGES`."""
    allocs: int
    frees: int
    """Of what was allocated here, within the trace."""
    reused: int
    """Whose address was allocated again with no free seen: freed, but the trace missed it."""
    outstanding: int
    bytes: int
    """Of the outstanding ones."""
    oldest: float
    """Seconds from the oldest outstanding allocation to the end of the trace; 0.0 without any."""
    youngest: float
    spread: tuple[int, ...]
    """Outstanding ones by the time of their allocation: tenths of the trace, first to last."""
    marked: int | None = None
    """Of the outstanding ones, how many a dump shows to be of a suspicious group; None: nobody
    looked."""


@dataclass(frozen=True)
class Cache:
    """Balance of one cache, or of one size where the trace does not name the cache."""

    name: str
    """``dentry``, ``kmalloc 64``, ``kmem_cache 192``, ``pages of order 0``."""
    what: str
    size: int
    """Bytes of one; 0 where its objects were only freed."""
    allocs: int
    frees: int
    """Those whose cache is known, from the allocation or from the event itself."""
    outstanding: int
    bytes: int
    per_hour: float
    """Bytes an hour by which it grew in the trace: (allocs - frees) * size / time."""
    growth: tuple[int, ...]
    """Allocations less frees in each period of the trace; `TraceSummary.period` long each."""


@dataclass(frozen=True)
class OutstandingOf:
    """Outstanding allocations of one task, or with one stack."""

    index: int
    """Into `TraceSummary.tasks` or `.stacks`."""
    outstanding: int
    bytes: int


@dataclass(frozen=True)
class TraceSummary:
    """A whole trace."""

    source: str
    events: int
    """Allocations and frees that were read."""
    allocs: int
    frees: int
    begin: int
    end: int
    """Nanoseconds on the trace's clock: first and last event."""
    period: int
    """Nanoseconds of a period of `Cache.growth`."""
    hashed: bool
    """The pointers are hashes: they pair, but no object can be found by them."""
    sites: tuple[Site, ...]
    """Places that allocate slab objects, ranked: marked, outstanding, bytes."""
    pages: tuple[Site, ...]
    """Places that allocate pages, the slab allocator's own included."""
    caches: tuple[Cache, ...]
    tasks: tuple[Task, ...]
    stacks: tuple[tuple[str, ...], ...]
    """Function names, innermost first."""
    by_task: tuple[OutstandingOf, ...]
    by_stack: tuple[OutstandingOf, ...]
    """Of slab objects, most outstanding first."""
    outstanding: Outstanding
    outstanding_pages: Outstanding
    skipped: tuple[Skipped, ...]
    interrupted: bool = False
    remarks: tuple[str, ...] = field(default=())
    """How it was traced, where that was done here."""

    @property
    def seconds(self) -> float:
        """Time that the trace spans."""
        return (self.end - self.begin) / 1e9

    @property
    def has_stacks(self) -> bool:
        return len(self.stacks) > 1


def rank(sites: list[Site], by: str = "objects") -> list[int]:
    """Indices of `sites`, the guiltiest first; `by` is "objects" or "bytes"."""

    def key(i: int) -> tuple[int, int, int, int, str]:
        site = sites[i]
        count, size = site.outstanding, site.bytes
        first, second = (size, count) if by == "bytes" else (count, size)
        return -(site.marked or 0), -first, -second, -site.allocs, site.function

    return sorted(range(len(sites)), key=key)


def outstanding_of(
    index: Ids, size: NDArray[np.int64], names: list[str]
) -> tuple[OutstandingOf, ...]:
    """Outstanding ones by `index`, most first; equal ones by name, not by order of appearance."""
    counts = np.bincount(index, minlength=len(names))
    total = np.zeros(len(names), np.int64)
    np.add.at(total, index, size)
    found = [
        OutstandingOf(i, int(counts[i]), int(total[i])) for i in np.flatnonzero(counts).tolist()
    ]
    return tuple(sorted(found, key=lambda h: (-h.outstanding, -h.bytes, names[h.index])))


def seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, 6)

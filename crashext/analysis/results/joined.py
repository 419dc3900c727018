"""What a trace of allocations brings to an analysis of memory, and what comes of it: plain data.

It knows no trace format: `crashext.trace` makes `Traced` of what it has read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.results.estimate import Estimate
from crashext.hosts.base import U64


@dataclass(frozen=True, slots=True)
class TracedSite:
    """One place that allocated during the trace."""

    function: str
    """``function+0x21``, or ``0xffffffff81234567`` where the trace has addresses only."""
    module: str
    """"" for the kernel image, and where the trace does not say."""
    outstanding: int
    allocs: int
    stack: tuple[str, ...] = ()
    """The most frequent stack of the outstanding ones, innermost frame first."""


@dataclass(frozen=True, slots=True)
class Traced:
    """Objects that were allocated during a trace and not freed in it."""

    source: str
    seconds: float
    hashed: bool
    """The pointers are hashes: nothing can be found by them."""
    address: NDArray[np.uint64]
    """Sorted."""
    size: NDArray[np.int64]
    """Bytes that the allocator gave for each: those of a slot."""
    site: NDArray[np.int32]
    """Index of each into `sites`."""
    sites: tuple[TracedSite, ...]
    remarks: tuple[str, ...] = ()
    """How it was traced, where that was done here."""

    def __len__(self) -> int:
        return len(self.address)


@dataclass(frozen=True, slots=True)
class MarkedGroup:
    """A group of a cache, as far as a trace met it."""

    number: int
    """From 1, the largest first, as in `CacheReport.groups`, which may end before it."""
    exemplar: U64
    objects: Estimate
    alike: int
    """Outstanding objects that are like it."""
    suspect: bool
    """Likeness to it is a mark."""


@dataclass(frozen=True, slots=True)
class MarkedSite:
    """What became of the outstanding objects of one place, in one cache."""

    function: str
    module: str
    outstanding: int
    """Those in this cache, freed ones included."""
    marked: int
    """Like a suspect group, and not known to be in use."""
    reachable: int
    """Objects that something in use still points at: never marked."""
    unlike: int
    """Like no group."""
    gone: int
    """Freed since the trace, or another object's by now."""
    allocs: int
    """By this place, in all caches."""
    groups: tuple[tuple[int, int], ...]
    """(group number, marks), most marks first."""


@dataclass(frozen=True, slots=True)
class MarkedCache:
    """One cache, joined with a trace."""

    cache: str
    outstanding: int
    """Traced addresses in its slabs."""
    compared: int
    """Allocated objects that were compared with the groups."""
    gone: int
    unreadable: int
    """In pages or freelists that cannot be read."""
    not_compared: int
    """More than are compared of one cache."""
    by_reach: bool
    """Suspect groups are those that nothing in use points at; else those with a large share of
    the cache, which innocents may have too."""
    judged: int
    """Outstanding objects of which is known by themselves whether something points at them."""
    groups: tuple[MarkedGroup, ...]
    """Those that outstanding objects are like, by number."""
    sites: tuple[MarkedSite, ...]
    """Most marks first."""


@dataclass(frozen=True, slots=True)
class JoinedTrace:
    """A trace, joined with memory."""

    source: str
    seconds: float
    outstanding: int
    hashed: bool
    elsewhere: int
    """Outstanding objects in caches that were not looked at."""
    moved: int
    """At their addresses there is now no slab, or one of another size."""
    caches: tuple[MarkedCache, ...]
    notes: tuple[str, ...] = ()
    """What makes the joining impossible or doubtful."""
    remarks: tuple[str, ...] = ()

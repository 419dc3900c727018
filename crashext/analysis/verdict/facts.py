"""What is known of a whole machine, from whatever source: the numbers that verdicts are made of.

Sizes are in bytes. None means that the source cannot tell, which is not the same as nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crashext.analysis.memory.growth import Growth
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.results.estimate import NONE, Estimate
from crashext.analysis.results.evidence import Reachability, UnreachableMemory
from crashext.hosts.base import U64
from crashext.procfs.processes import Process

CUT = "interrupted before "
"""What a limit begins with that Ctrl-C set."""


@dataclass(frozen=True, slots=True)
class CacheFact:
    """One slab cache."""

    name: str
    bytes: int
    """Of its slabs, free slots included."""
    slabs: int
    allocated: int
    slots: int
    slot_size: int
    reclaimable: bool | None
    """None where the source does not tell the caches apart."""
    unreachable: Estimate | None = None
    """Objects of this cache that are unreachable; None where nobody looked."""
    counted: bool = True
    """False where the source counts bytes only: `allocated` and `slots` are bytes then."""

    @property
    def wasted(self) -> int:
        """Bytes of free slots."""
        return max(0, self.slots - self.allocated) * self.slot_size

    @property
    def use(self) -> float:
        """Share of the slots that is allocated."""
        return self.allocated / self.slots if self.slots else 1.0


@dataclass(frozen=True, slots=True)
class UnreachableFact:
    """Unreachable objects, with what hangs below them."""

    by: Literal["reachability", "kmemleak"]
    """Who says so."""
    where: Literal["slab", "pages"]
    """``slab``, or ``pages`` for per-CPU memory."""
    cache: str
    """"" where nobody knows which: kmemleak notes none."""
    objects: Estimate
    """Of that cache alone."""
    bytes: int
    """Of them and of what hangs below."""
    module: str
    """"" where nothing names one."""
    caller: str
    """"" where nothing names one."""
    evidence: tuple[str, ...]
    """What is known of them, in sentences."""
    examples: tuple[U64, ...] = ()
    below: Estimate = NONE
    """Objects of other caches that hang below."""
    traced: bool = False
    """A trace saw them allocated: it is still going on, so that little is already too much."""
    contains_symbols: bool = False
    """The objects, or what they point at, contain symbols of `module`."""
    likely: bool = False
    """No record knows the caller: of all places in the code it is the likely one."""


@dataclass(frozen=True, slots=True)
class HolderFact:
    """Objects of one cache that are reached through one root."""

    cache: str
    root: str
    module: str
    objects: int
    bytes: int
    share: float
    """Of the cache's allocated objects."""
    exact: bool = False
    """All of them were followed; otherwise the numbers are estimated from those that were."""


@dataclass(frozen=True, slots=True)
class AreaFact:
    """The vmalloc areas of one caller."""

    caller: str
    module: str
    areas: int
    pages: int
    bytes: int
    unreachable: int | None
    """Bytes of those areas that nothing live points into."""
    largest: U64 | None = None
    """Start of the largest of them."""


@dataclass(frozen=True, slots=True)
class PagesHolder:
    """Pages from the page allocator that are reached through one root."""

    root: str
    module: str
    blocks: int
    bytes: int
    example: U64 | None = None
    """Where the largest block begins."""
    allocator: str = ""
    """Who allocated most of the largest, by records of the kernel's; "" where it kept none."""
    allocator_share: float = 1.0
    """Of their bytes."""
    other_allocators: int = 0
    """How many others there are."""


@dataclass(frozen=True, slots=True)
class PagesFact:
    """Pages that nothing accounts for."""

    bytes: int
    unreachable: int | None
    """Bytes of pages that no pointer leads to."""
    groups: tuple[tuple[str, str, float], ...]
    """What they are (or who allocated them), the module it names, and the share: most first."""
    owner: str = ""
    """Who allocated most of them, by a record of the kernel's; "" where that is not known."""
    memory: tuple[UnreachableMemory, ...] = ()
    """The unreachable blocks, by what is in them, most bytes first."""
    held: tuple[PagesHolder, ...] = ()
    """Who holds the others, most bytes first."""
    weak: int = 0
    """Bytes of pages whose physical address alone is known to somebody."""
    weak_by: tuple[PagesHolder, ...] = ()
    """Who knows it, most bytes first."""
    split: int = 0
    """Bytes of pages that nothing leads to, but that may be the rest of the allocation before."""
    disagreement: int | None = None
    """By how many bytes counters and page frames disagree about what is unaccounted; None where
    page frames were not understood."""


@dataclass(frozen=True, slots=True)
class BacklogFact:
    """Frees that wait for an RCU grace period."""

    callbacks: int
    """call_rcu() callbacks that are queued."""
    frees: int
    """Objects that kfree_rcu() keeps."""
    sheaves: bool = False
    """Whether some of the callbacks may each free a sheaf of objects."""

    @property
    def total(self) -> int:
        return self.callbacks + self.frees


@dataclass(frozen=True, slots=True)
class SiteFact:
    """The place that allocated most objects of one cache, by the kernel's own count."""

    cache: str
    site: str
    module: str
    objects: int
    of: int
    """Objects of that cache that were counted."""


@dataclass(frozen=True, slots=True)
class TagFact:
    """One line of source and what it holds, by memory allocation profiling."""

    place: str
    """``mm/filemap.c:2012``"""
    function: str
    module: str
    bytes: int
    calls: int
    pages: bool
    """They are whole pages, as far as sizes tell; else slab objects."""
    counted: int | None
    """Bytes that the kernel's counter of such memory has; None where it has no counter."""


@dataclass(frozen=True, slots=True)
class OutstandingFact:
    """Allocations of one stack that a tool saw, and that were not freed while it watched."""

    by: str
    """``memleak``, ``bpftrace's map @``, ``the kernel's TRACE lines``."""
    counts: Literal["bytes", "allocations", "unknown"]
    """What its numbers are; those that are not known are in `bytes`."""
    function: str
    module: str
    bytes: int
    """0 where they are not known."""
    calls: int
    """0 where they are not known."""
    of: int
    """Sum of what all its stacks have, in bytes, or else in allocations."""
    stack: str
    cache: str = ""
    """Where the tool names it."""


@dataclass(frozen=True, slots=True)
class KnownHolder:
    """Somebody who says himself how much memory he has: a balloon, a cache, a device."""

    name: str
    bytes: int
    by: str
    """Who says so."""
    means: str
    """What it is, and whether that is normal."""
    where: Literal["slab", "vmalloc", "pages", "none"]
    """``none``: it is not in MemTotal."""
    next: str
    """What to ask, or to do."""
    module: str = ""


@dataclass(frozen=True, slots=True)
class MountFact:
    """Files in memory: a tmpfs mount."""

    mount: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the rules of `verdict` look at."""

    split: MemorySplit
    caches: tuple[CacheFact, ...] = ()
    """Largest first."""
    unreachable: tuple[UnreachableFact, ...] | None = None
    """Largest first; None where nobody looked."""
    explained: int = 0
    """Unreachable objects that are no leak."""
    holders: tuple[HolderFact, ...] = ()
    """Of the largest caches, largest first."""
    areas: tuple[AreaFact, ...] = ()
    pages: PagesFact | None = None
    backlog: BacklogFact | None = None
    processes: tuple[Process, ...] = ()
    """Largest first."""
    mounts: tuple[MountFact, ...] = ()
    reachability: Reachability | None = None
    limits: tuple[str, ...] = ()
    """What this source cannot tell, in sentences."""
    source: Literal["dump", "live", "procfs"] = "dump"
    """``live`` is the running kernel's memory."""
    sites: tuple[SiteFact, ...] = ()
    growth: Growth | None = None
    """Since an earlier moment; None where none was given."""
    known: tuple[KnownHolder, ...] = ()
    """Largest first."""
    tags: tuple[TagFact, ...] = ()
    """Largest first."""
    modules: tuple[str, ...] = ()
    """That are loaded; empty where nobody says."""
    cgroups: tuple[int | None, int | None] = (None, None)
    """Memory cgroups that the kernel keeps, and how many of them are dying."""
    cgroup_caches: tuple[str, ...] = ()
    """Those that the structures of a memory cgroup are from."""
    uncounted: tuple[str, ...] = ()
    """Caches that the source could not count."""
    has_dump: bool = False
    """The text is of a crash session: somebody has the dump."""
    outstanding: tuple[OutstandingFact, ...] = ()
    """Largest first of each source."""
    vmalloc_space: tuple[int, int] = (0, 0)
    """Areas, and bytes of addresses that they span, where only that is known (crash's kmem -v)."""
    cgroup: tuple[tuple[str, int], ...] = ()
    """What one memory cgroup has, by its memory.stat, largest first."""
    damage: str = ""
    """Why memory is missing that the dump was to hold, and how much; "" where none is."""
    cgroup_limit: int = 0
    """Where it ran into its limit and the machine did not run out."""

    @property
    def total(self) -> int:
        """MemTotal; 0 where it is not known."""
        return self.split.total

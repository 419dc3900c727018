"""What an analysis found: plain data, the only thing that passes to the reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.results.callsites import Callers, CallSite
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.evidence import (
    Allocator,
    CacheReach,
    Held,
    OrphanGroup,
    OrphanTotals,
    Reachability,
    TypeCandidate,
    UnreachableCache,
    UnreachableMemory,
)
from crashext.analysis.results.joined import JoinedTrace
from crashext.analysis.results.standing import Beyond, Standing, ThingKind
from crashext.analysis.results.texts import Text
from crashext.hosts.base import U64
from crashext.kernel.slab.untyped import UntypedCache
from crashext.skipped import Skipped


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str
    arch: str
    live: bool
    source: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One step towards a name: what an object that is pointed to is, and the word that told."""

    address: U64
    what: str


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a group's exemplar, and how the rest of the group agrees with it."""

    offset: int
    value: U64
    size: int
    """Bytes of the object in this word; under 8 only at an odd-sized object's end."""
    kind: str
    meaning: str
    agreement: float
    """Share of the group whose word is of the same kind, into the same cache, or the same."""
    constant: float
    """Share of the group with this very value."""
    varies: str
    """How it varies over the group; "" where it is constant."""
    hops: tuple[Hop, ...] = ()
    shown: bool = True
    """False where a pasted text has a name in place of the value; `value` is 0 then."""


@dataclass(frozen=True, slots=True)
class Group:
    """Alike objects of one cache."""

    exemplar: U64
    sampled: int
    objects: Estimate
    share: Share
    similarity: float
    """Mean score of sampled members against the exemplar, 0 to 1."""
    shapes: int
    distinct: int
    """Different contents among the sampled members."""
    shape: str
    """The exemplar's shape, one label a word."""
    residue: float | None
    """Share of the cache's free slots that look like this group too; None: none are known."""
    words: tuple[Word, ...]
    notes: tuple[str, ...]
    lowest: U64
    highest: U64
    """Lowest and highest address among the sampled members."""
    held: Held | None = None
    """Who points at them; None where nobody looked."""
    allocators: tuple[Allocator, ...] = ()
    """Who allocated them, by the strongest rung that knows, most objects first."""
    unattributed: str = ""
    """Why no record names the code that allocated them, and what would have; "" where one does."""
    absent_rungs: tuple[str, ...] = ()
    """Records of allocations that this dump does not have, given with a cache's first group."""
    types: tuple[TypeCandidate, ...] = ()
    """What they may be, best first."""
    callers: Callers | None = None
    """Who may have allocated them, by the code; None where a record knows it, or nobody looked."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    name: str
    asked: str
    """The name the user typed, which may be an alias."""
    aliases: tuple[str, ...]
    address: U64
    object_size: int
    slot_size: int
    flags: tuple[str, ...]
    has_constructor: bool
    slabs_total: Estimate
    slabs_examined: int
    objects_total: Estimate
    allocated: Estimate
    sampled: int
    free_sampled: int
    groups: tuple[Group, ...]
    """The largest groups, largest first."""
    more_groups: int
    """Smaller groups, which are not described."""
    more: Estimate
    """Objects in those."""
    rest: Estimate
    """Objects like no other, or not compared any more."""
    rest_examined: bool
    """False where there were too many groups to look further."""
    next_steps: tuple[str, ...]
    """Commands, as those of verdicts."""
    walker: Literal["map", "kmem"] = "map"
    """How objects were found: "map", random slabs of the memory map, which stand for the cache;
    "kmem", those that crash's kmem -S lists: groups, shares and `rest` count these alone."""
    reach: CacheReach | None = None
    """What became of all its objects; None where nobody looked."""


@dataclass(frozen=True, slots=True)
class LeakReport:
    """The answer to `leakscan CACHE…`."""

    kernel: Kernel
    seed: int
    threshold: float
    metric: str
    caches: tuple[CacheReport, ...]
    skipped: tuple[Skipped, ...]
    interrupted: bool = False
    reachability: Reachability | None = None
    """The pass over memory that `Group.held` comes from; None where there was none."""
    trace: JoinedTrace | None = None
    """Who allocated during a trace what is alike; None where no trace was given."""


@dataclass(frozen=True, slots=True)
class OrphanReport:
    """The answer to `leakscan --orphans`."""

    kernel: Kernel
    seed: int
    reachability: Reachability
    totals: OrphanTotals
    orphans: tuple[OrphanGroup, ...]
    """Largest first."""
    more: int
    """Smaller groups that are not listed."""
    skipped: tuple[Skipped, ...]
    interrupted: bool = False
    memory: tuple[UnreachableMemory, ...] = ()
    """vmalloc areas and pages that nothing reaches."""
    caches: tuple[UnreachableCache, ...] = ()
    """Counts of the whole, by the cache of the heads: groups above are the largest only."""


@dataclass(frozen=True, slots=True)
class MemberValue:
    """One member of a struct that was laid over an object."""

    name: str
    """Dotted, from the outermost struct."""
    offset: int
    size: int
    value: U64 | None
    """None where it is not one number, or cannot be read."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One object that `objsim` was asked about."""

    asked: U64
    address: U64
    cache: str | None
    size: int
    state: str
    """allocated, free, unknown; "" where it is no slab object."""
    note: str
    words: tuple[Word, ...]
    members: tuple[MemberValue, ...] = ()
    """By name, where the user said of what type it is, or where one of `types` stands out."""
    kind: ThingKind = "object"
    extent: int = 0
    """Bytes of what is no object, some of which are `words`; 0 where its end is not known."""
    details: tuple[Text, ...] = ()
    """What else is known of what is no object, a line each; of an object why it is no leak."""
    standing: Standing | None = None
    """Who holds it, of one address alone; None where nobody looked."""
    types: tuple[TypeCandidate, ...] = ()
    """What the object, and those like it, may be, best first."""
    allocators: tuple[Allocator, ...] = ()
    """Who allocated it: its own record, or what those like it tell."""
    unattributed: str = ""
    """Why no record names the code that allocated it; "" where one does."""
    beyond: Beyond | None = None
    """Of an area or a block of pages."""


@dataclass(frozen=True, slots=True)
class Pair:
    first: U64
    second: U64
    similarity: float
    differing: tuple[int, ...]
    """Offsets of words that are not alike."""
    compared: int = 0
    """Bytes from the start of both."""


@dataclass(frozen=True, slots=True)
class Kin:
    """Objects of one cache that are like one object."""

    like: U64
    cache: str
    objects: Estimate
    share: Share
    allocated: Estimate
    similarity: float
    residue: float | None
    listed: NDArray[np.uint64] | None
    """Addresses, when a list was asked for (then every slab of the index was read)."""
    callers: Callers | None = None
    """Who may have allocated them, by the code; None where nobody knows it."""


@dataclass(frozen=True, slots=True)
class SimilarityReport:
    """The answer to `objsim`."""

    kernel: Kernel | None
    seed: int
    threshold: float
    metric: str
    subjects: tuple[Subject, ...]
    pairs: tuple[Pair, ...]
    kin: Kin | None
    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...]
    interrupted: bool = False
    alone: int = 0
    """Objects of an excerpt that are in no group."""


@dataclass(frozen=True, slots=True)
class SitesReport:
    """The answer to `leakscan --sites CACHE`."""

    kernel: Kernel
    cache: str
    sites: tuple[CallSite, ...]
    """Places that allocate from the cache: it, or a size that only it fits, is in the code."""
    varying: tuple[CallSite, ...]
    """Places that may allocate from it, and from others: the size, or for a cache that is not
    kmalloc's the cache, is not constant in the code."""
    freed: tuple[CallSite, ...]
    """Places that give objects back to this very cache; kfree() does not name one."""
    text: int
    """Bytes of kernel and module text that were looked through."""
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class CachesReport:
    """What is known of slab caches where the kernel's types are not: a part of any answer."""

    kernel: Kernel
    missing: str
    """Why there is no more, and what would give it."""
    caches: tuple[UntypedCache, ...]
    """The largest first; none where the list does not prove itself."""
    skipped: tuple[Skipped, ...] = ()

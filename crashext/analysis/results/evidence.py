"""What else is known of a group besides likeness: who points at it, who allocated it, what it is.

Plain data; `results` holds it, the reports print it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from crashext.analysis.results.callsites import Callers
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.texts import MOST_LINES, Text
from crashext.hosts.base import U64

HIDDEN = "what holds them may be in pages that could not be read"
"""Explanation of orphans that are no more than missing pages can account for."""


@dataclass(frozen=True, slots=True)
class Allocator:
    """One allocation site of some objects of a group, as one rung of the ladder knows it."""

    rung: str
    """How it is known: "slub-track", "page-owner", "kmemleak", "alloc-tag", "memcg", ..."""
    site: str
    """``function+0x1a`` where the kernel's own allocator functions end, or ``file:line``."""
    module: str
    """"" for the kernel image."""
    stack: tuple[str, ...]
    """Innermost frame first, each ``function+0x1a [module]``; empty where only a site is known."""
    objects: int
    """Objects looked at that this site allocated."""
    of: int
    """Objects of the group that this rung was asked about."""
    note: str = ""
    """Who and when: pids, commands, ages; "" where the rung does not know."""


@dataclass(frozen=True, slots=True)
class TypeCandidate:
    """A struct that a group's objects may be."""

    name: Text
    """``struct dentry``"""
    score: Annotated[float, Meta(ge=0, le=1)]
    agreements: Annotated[tuple[Text, ...], Meta(max_length=MOST_LINES)]
    disagreements: Annotated[tuple[Text, ...], Meta(max_length=MOST_LINES)]
    module: str = ""
    """The module whose BTF has it; "" for the kernel's own."""
    agree: Annotated[int, Meta(ge=0)] = 0
    """Words that agree; `agreements` shows the most telling of them."""
    disagree: Annotated[int, Meta(ge=0)] = 0
    gain: float = 0.0
    """How much more probable the words are if it is this type than if anything may be in them:
    the logarithm of the ratio. `score` is its share of what any struct explains."""


@dataclass(frozen=True, slots=True)
class Chain:
    """How one object is reached: from a root, or from an unreachable object, down to it."""

    target: U64
    steps: tuple[str, ...]
    """``leaklab_ipmi_waiting [leaklab]``, ``kmalloc-512+0x8``, ...: the root first."""


@dataclass(frozen=True, slots=True)
class Head:
    """A variable that objects hang at: it points at one of them, others of their cache at them."""

    name: Text
    """"" where that is not known."""
    module: Text
    """"" for the kernel image."""
    address: U64


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where pointers to objects of a group are."""

    holder: Text
    """The cache of most that have one there, or "variables"."""
    offset: int
    """Of the pointer in the holder; -1 for one that differs from object to object, as in arrays."""
    inside: int
    """How far into the object it leads."""
    objects: int
    """Objects that one leads to."""
    of: int
    """Objects that were looked at."""
    own: bool = False
    """The holders are of the objects' own cache."""
    size: int = 0
    """Bytes of the holders; 0 for variables, and what is no slab object."""
    struct: Text = ""
    """What the holders are, where the kernel itself tells; "" else."""
    symbols: tuple[U64, ...] = ()
    """Addresses in the kernel or a module that nearly all holders have at the same offset."""
    others: bool = False
    """Many of that cache point at objects of other caches there: the member may hold anything."""


@dataclass(frozen=True, slots=True)
class Held:
    """Who points at a group's objects. The shares are of the group's allocated objects."""

    orphan: Share
    """Nothing points at them, from anywhere."""
    structure: Share
    """Only unreachable objects point at them."""
    held: Share
    """Reachable from a root."""
    weak: Share
    """Only a struct page pointer or a physical address leads to them."""
    examined: int
    """Objects that were looked at."""
    chains: tuple[Chain, ...] = ()
    """Examples, the most frequent holder first."""
    holders: tuple[tuple[str, int], ...] = ()
    """Roots by name, with the number of examined objects they hold, most first."""
    head: Head | None = None
    """Where nearly all that were examined hang; None where there is no such variable."""
    pointers: tuple[Pointer, ...] = ()
    """Where the most pointers to them are, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Below:
    """Objects of one cache that hang below the heads of a leak."""

    cache: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UnreachableCache:
    """The unreachable objects under heads of one cache; those of its groups that are no leak
    left out."""

    cache: str
    objects: Estimate
    """Of this cache: heads, and what hangs below heads of the same cache."""
    heads: Estimate
    others: Estimate
    """Objects of other caches that hang below them."""
    below: tuple[Below, ...]
    """Those by cache, most bytes first."""
    bytes: int
    """Of all of them, in slots."""


@dataclass(frozen=True, slots=True)
class CacheReach:
    """What became of all allocated objects of one cache."""

    unreachable: Estimate
    held: Estimate
    weak: Estimate
    """Weakly held."""
    not_judged: int
    """Slots of which nobody knows whether they are free, or that are not in the dump."""


@dataclass(frozen=True, slots=True)
class OrphanGroup:
    """Unreachable objects of one cache that are alike, with what hangs below them."""

    cache: str
    shape: str
    """The exemplar's shape, one label a word."""
    heads: int
    """Objects that nothing points at, or the chosen one of each ring."""
    objects: int
    """Heads, and all that only they lead to."""
    bytes: int
    """Of all those objects, in slots."""
    estimated: bool
    """The group's part of its cache was estimated from a sample of the heads."""
    below: tuple[Below, ...]
    exemplar: U64
    examples: tuple[U64, ...]
    notes: tuple[str, ...]
    explanation: str = ""
    """Why the kernel itself does not count these as leaked, or `HIDDEN`; "" where nothing
    speaks for them."""
    allocators: tuple[Allocator, ...] = ()
    types: tuple[TypeCandidate, ...] = ()
    callers: Callers | None = None
    """Who may have allocated them, by the code; None where a record knows it, or nobody looked."""


@dataclass(frozen=True, slots=True)
class UnreachableMemory:
    """vmalloc areas of one caller, or blocks of pages that are alike, that nothing reaches."""

    kind: Literal["vmalloc", "pages"]
    what: str
    """The function that asked for the areas; what is in the pages, or who allocated them."""
    module: str
    """"" where nothing names one."""
    count: int
    """Areas, or blocks of pages."""
    pages: int
    bytes: int
    """Of an area without pages of its own (vmap) the addresses that it takes."""
    orders: tuple[tuple[int, int], ...]
    """(order, blocks) of pages."""
    examples: tuple[U64, ...]
    """Where some of them begin; pages by their direct-map address."""
    estimated: bool = False
    """The group was told from the others by a sample of the blocks."""
    callers: Callers | None = None
    """Who may have allocated them, by the code; None where no module is named."""
    part_of: str = ""
    """The cache whose unreachable objects they belong to; "" where they are lost by themselves."""
    allocator: str = ""
    """Who allocated the pages, by a record of the kernel's; "" where it kept none."""


@dataclass(frozen=True, slots=True)
class OrphanTotals:
    objects: Estimate
    """Unreachable objects."""
    bytes: int
    heads: Estimate
    explained: int
    """Unreachable objects that the kernel does not count as leaked."""
    judged: int
    """Allocated objects judged."""
    judged_bytes: int
    dead_words: int
    """Unreachable objects that a dead word of some stack still names."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """What the pass over memory saw."""

    pages_present: int
    """Page frames of kernel memory that were read."""
    pages_missing: int
    """Page frames of kernel memory that are not in the dump: what they point at looks orphaned."""
    roots: int
    """Words outside slab objects that point at one."""
    edges: int
    """Words inside allocated objects that point at one."""
    objects: int
    """Allocated objects judged."""
    bytes_read: int
    sampled: bool = False
    """Objects were followed upwards from a sample, not marked downwards from every root."""
    notes: tuple[str, ...] = field(default=())
    misgivings: tuple[str, ...] = field(default=())
    """Why what it says is not to be believed: the pass did not understand this kernel."""
    slab_pages_missing: int = 0
    """Of the missing pages those of slabs: what their objects held is not known."""

"""What is known of one address: what is there, who holds it, who points at it. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from crashext.analysis.results.callsites import Callers
from crashext.analysis.results.estimate import Estimate
from crashext.analysis.results.evidence import Allocator, Chain, Head
from crashext.analysis.results.texts import MOST_LINES, Text
from crashext.hosts.base import U64

ThingKind = Literal[
    "object",
    "slab",
    "area",
    "pages",
    "page",
    "struct-page",
    "stack",
    "per-cpu",
    "symbol",
    "none",
]
"""A slab object; a slab's pages outside objects; a vmalloc area; a block from the page allocator;
a page frame of another use; a struct page; a task's stack; per-CPU memory; the kernel's or a
module's own text and data; nothing that is mapped."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What an address is in."""

    kind: ThingKind
    what: Text
    """In a few words: ``vmalloc area of 65,536 bytes``."""
    start: U64
    """Where it begins, by the address that its owner knows."""
    size: int = 0
    """Bytes from there; 0 where it has no end that is known."""
    state: Literal["allocated", "free", "unknown", ""] = ""
    """"" where the question has no meaning."""
    details: Annotated[tuple[Text, ...], Meta(max_length=MOST_LINES)] = ()
    """What else is known of it, a line each."""
    memory: U64 | None = None
    """Where what can be leaked begins, an area or a block of pages; None for all else."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """A word that points at a thing."""

    place: Text
    """``leaklab_living+0x8 [leaklab]``, ``kmalloc-96 object ffff...+0x8``."""
    reached: bool
    """What holds the word can itself be reached."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of one thing: held by somebody, or by nobody."""

    state: Literal["held", "weak", "orphan", "structure", "unknown"]
    """Reachable from a root; by a struct page pointer or a physical address only; nothing points
    at it; only unreachable things do; cannot be told."""
    chain: Chain | None = None
    """From the root that holds it, or from the unreachable object above all others; of what is
    weakly held because it may be the rest of an allocation, from the root that holds that one."""
    pointing: Annotated[tuple[Pointing, ...], Meta(max_length=MOST_LINES)] = ()
    """Some of the words that point at it; of what is weakly held those that name it otherwise."""
    words: int = 0
    """How many of them are known; of words outside objects only a few are remembered."""
    dead: int = 0
    """Words in dead parts of stacks that point at it, which hold nothing."""
    head: Head | None = None
    """Where it hangs if it is held; None where there is no such variable."""


@dataclass(frozen=True, slots=True)
class Siblings:
    """vmalloc areas, or blocks of pages, that are like one of them, itself included."""

    what: Text
    """``vmalloc areas of leaklab_leak_vmallocs [leaklab]``"""
    count: Estimate
    of: int
    """Areas, or blocks of this order, in all."""
    bytes: int
    unreachable: Estimate


@dataclass(frozen=True, slots=True)
class Beyond:
    """Of an area or a block of pages what the slab's own records tell of an object."""

    siblings: Siblings
    content: Text = ""
    """What is in the pages, in a few words; "" for areas."""
    allocators: tuple[Allocator, ...] = ()
    callers: Callers | None = None
    """The code of its module that may have asked for it; None where no module is named."""

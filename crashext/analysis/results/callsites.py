"""Places in the code that allocate, as reports have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from crashext.analysis.results.texts import MOST_LINES, Text
from crashext.hosts.base import U64
from crashext.kernel.origin.counting import Counting
from crashext.kernel.origin.stores import Store


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call of an allocator, or of a function that frees."""

    function: Text
    """The function that calls; its address where it has no name."""
    offset: int
    """Of where the call returns to, as the kernel's stacks have it; of a tail jump its end."""
    module: Text
    """"" for the kernel image."""
    address: U64
    """Of the call itself."""
    calls: Text
    """``kmalloc_trace``, ``kmem_cache_free``, ..."""
    tail: bool
    """It is a tail jump: stacks of such allocations begin with the caller's caller."""
    sizes: tuple[int, ...]
    """Bytes that it may ask for; empty where that is not constant."""
    source: Text = ""
    """``file:line``; "" where no debug info says."""
    supposed: tuple[int, ...] = ()
    """Where `sizes` are not known: what they are if variables were what they are in the dump."""
    least: int = 0
    """Where `sizes` are not known: it asks for no less; 0 where the code does not tell."""


@dataclass(frozen=True, slots=True)
class CodeOf:
    """The code that allocates from a cache, as far as a ranking needs it; a session keeps it."""

    places: tuple[Allocating, ...]
    """Those that certainly do, and of the others those in modules."""
    others: int
    """Places of the kernel itself that may as well."""
    freeing: tuple[CallSite, ...] = ()
    """Places in modules that may free such an object; in sessions up to 0.2.0, `FreesOf` since."""


@dataclass(frozen=True, slots=True)
class FreesOf:
    """Where a module frees a cache's objects; a session keeps it."""

    surely: tuple[CallSite, ...]
    perhaps: tuple[CallSite, ...]
    """The code does not tell of which cache what they free is."""


@dataclass(frozen=True, slots=True)
class Allocating:
    """A place that allocates, and what is done with the memory there."""

    site: CallSite
    stores: tuple[Store, ...]
    certain: bool
    """It is this cache, or a size that only it fits."""
    foreign: Text
    """Why its module is none of the kernel's own; "" where it is one."""
    fills: tuple[int, ...] = ()
    """Words of the object, by number, that something is written to which is not constant."""
    called: int | None = None
    """Direct calls of its function in all text; None where it is not known."""
    counting: Counting | None = None
    """How its size comes of a number that the object holds."""


@dataclass(frozen=True, slots=True)
class Named:
    """Places whose function names a symbol that a group's objects hold; a session keeps it."""

    word: U64
    """The symbol's address."""
    offset: int
    """Where they hold it."""
    naming: int
    """Functions that name it, of all that ask for an object."""
    functions: int
    """Functions that ask for an object."""
    calls: tuple[U64, ...]
    """Addresses of the calls of those that may allocate from the cache."""
    more: tuple[Allocating, ...]
    """Of those the kernel's own whose size or cache is not constant."""
    handed: int = 0
    """Where nobody of those names it: functions that ask for an object and are called by who does;
    `calls` are theirs then."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Places that keep an object's address where a group's are kept; a session keeps it."""

    places: int
    """Places that are seen to keep it anywhere, of all that may allocate from the cache."""
    exactly: tuple[U64, ...]
    """Calls of those that keep it there, in what the holders are."""
    fitting: tuple[U64, ...]
    """Calls of those that keep it there, in a struct that is as large as the holders."""
    perhaps: tuple[U64, ...]
    """Calls of those that keep it at such an offset of what is not known."""
    struct: Text
    """What the first two keep it in; "" where that differs, or has no name."""
    more: tuple[Allocating, ...]
    """Of those the kernel's own whose size or cache is not constant."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place in the code that may have allocated a group's objects."""

    site: CallSite
    probability: Annotated[float, Meta(ge=0, le=1)]
    """Of all places that may, by what speaks for each."""
    reasons: Annotated[tuple[Text, ...], Meta(max_length=MOST_LINES)]


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may have allocated a group's objects, by the code alone."""

    sites: tuple[Candidate, ...]
    """The most probable first."""
    places: int
    """Places that certainly allocate from the cache."""
    others: int
    """Places that may, whose size or cache is not constant."""
    clear: bool
    """The first one stands out."""
    equals: int
    """Places as probable as the first."""
    remark: Text = ""
    freed: tuple[CallSite, ...] = ()
    """Places in the first one's module that free such objects."""
    perhaps_freed: tuple[CallSite, ...] = ()
    """Places in it that may: the code does not tell of which cache what they free is."""
    step: Text = ""
    """A command that would tell; "" where one place stands out."""

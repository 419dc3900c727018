"""Every place of kernel and module text that asks for memory: from which cache, and how much.

The index of calls is one pass over the text; what a call passes is read off the code before it,
for the places that somebody asks about, and no more of it than the answer takes: the code of a
kernel takes seconds. It knows only what is constant there: a size that is computed is unknown, and
the place may ask for any.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crashext.allocators import allocates_for_others
from crashext.hosts.base import Host, ReadFault, Symbol
from crashext.kernel.access import UnknownLayout, string, u64
from crashext.kernel.addresses import address_space
from crashext.kernel.origin.callsites import CallSites, find_calls, jumps_on
from crashext.kernel.origin.code import MOST_CODE, Code
from crashext.kernel.origin.constants import Constants, Values, What
from crashext.kernel.origin.entrypoints import (
    ALLOCATING,
    CREATING,
    FREEING,
    LATER,
    EntryPoint,
    Kind,
    flags_argument,
)
from crashext.kernel.origin.readers import Reader, reader
from crashext.kernel.origin.stores import Store, stores_after
from crashext.kernel.slab.caches import Caches, SlabCache
from crashext.kernel.slab.families import family

_MOST_FUNCTION_WITHOUT_SIZE = 1 << 14
_DMA, _RECLAIMABLE, _ACCOUNT = 0x1, 0x10, 0x400000  # of the gfp flags
_BY_FLAGS = ("", "dma", "rcl", "cg")
"""Variants of kmalloc caches that the gfp flags choose; others are chosen at random or by name."""
_NO_SYMBOL = Symbol("", 0, 0, "")


@dataclass(frozen=True)
class Request:
    """One place that asks for memory, or that frees some."""

    call: int
    """Address of the call."""
    entry: EntryPoint
    jump: bool
    function: Symbol
    caches: tuple[int, ...]
    """Addresses of the caches that it may be given, as far as they are known."""
    sizes: tuple[int, ...]
    """All sizes, or orders of pages, that it may ask for; empty where it is not known."""
    flags: int | None
    """The gfp flags; None where they are not known, and where the caches are."""
    length: int
    """Bytes of the call instruction."""

    @property
    def offset(self) -> int:
        """Of where the call returns to, as stacks of the kernel have it."""
        return self.call + self.length - self.function.address


class Requests:
    """Those of one kernel. What was read of a function is kept."""

    def __init__(self, host: Host, caches: Caches) -> None:
        self._host, self._caches = host, caches
        self._known: dict[int, Request] = {}
        self._amounts: dict[int, tuple[int, ...]] = {}
        self._stores: dict[int, tuple[Store, ...]] = {}
        self._peeked: dict[int, int | None] = {}
        self._function: tuple[int, Constants | None] = (0, None)

    @cached_property
    def _entries(self) -> tuple[tuple[EntryPoint, ...], CallSites]:
        entries = (*ALLOCATING, *FREEING)
        addresses: dict[int, int] = {}
        for number, entry in enumerate(entries):
            address = self._host.address_of(entry.name)
            if address is not None:
                addresses.setdefault(address, number)  # aliases of one function
        return entries, find_calls(self._host, addresses)

    @property
    def text(self) -> int:
        """Bytes of text that were looked through."""
        return self._entries[1].text

    @property
    def missing(self) -> int:
        """Bytes of text that are not in the dump."""
        return self._entries[1].missing

    def of(
        self, kinds: Iterable[Kind], areas: Iterable[tuple[int, int]] | None = None
    ) -> list[Request]:
        """All places that ask for one of `kinds`, in `areas` of addresses where those are given."""
        return [self._request(row) for row in self._rows(kinds, areas)]

    def _rows(
        self, kinds: Iterable[Kind], areas: Iterable[tuple[int, int]] | None = None
    ) -> list[int]:
        entries, calls = self._entries
        wanted = [i for i, e in enumerate(entries) if e.kind in kinds]
        chosen = np.isin(calls.target, wanted)
        if areas is not None:
            inside = np.zeros(len(chosen), np.bool_)
            for a, b in areas:
                inside |= (calls.address >= a) & (calls.address < b)
            chosen &= inside
        rows: list[int] = np.flatnonzero(chosen).tolist()
        return rows

    def from_cache(self, cache: SlabCache) -> Iterator[Request]:
        """All places that may allocate from `cache`, helpers that do it for their callers aside.

        In order of address; before the next is asked for, the code of this one is at hand.
        """
        fits = self._fitting(cache)
        for row in self._rows((Kind.SLAB, Kind.SIZED)):
            if self._may_fit(row, fits):
                found = self._request(row)
                if fits(found) and not _passes_on(found):
                    yield found

    def _may_fit(self, row: int, fits: _Fit) -> bool:
        """Whether the rest of a request is worth reading: most ask for another size."""
        entries, calls = self._entries
        entry = entries[int(calls.target[row])]
        sized = entry.size >= 0 or entry.kind is Kind.SIZED  # one of kmalloc's caches
        if not sized or not fits.kmalloc:
            return not sized
        return entry.size < 0 or fits.size(self._amount(row))

    def freeing(self, cache: SlabCache) -> list[Request]:
        """Places in modules that may free an object of `cache`."""
        kmalloc = family(cache.name)[0].startswith("kmalloc-")
        areas = [area for module in self._host.modules() for area in module.ranges]
        return [
            r
            for r in self.of((Kind.FREE,), areas)
            if cache.address in r.caches
            or (not r.caches and (r.entry.cache < 0) == kmalloc)
            or r.entry.name in LATER
        ]

    def stores(self, request: Request) -> tuple[Store, ...]:
        """What the function writes into the memory that it gets there."""
        # Each group of a cache's objects is held against the same places.
        if request.call not in self._stores:
            self._stores[request.call] = self._read_stores(request)
        return self._stores[request.call]

    def _read_stores(self, request: Request) -> tuple[Store, ...]:
        if request.jump or not request.entry.returns:
            return ()
        known, at = self._place(request.call, request.function)
        return () if known is None else stores_after(known.code, known, at, self._reader.walk)

    def _request(self, row: int) -> Request:
        address, entry, function = self._called(row)
        if address not in self._known:
            caches = self._caches_of(address, entry, function)
            self._known[address] = Request(
                address,
                entry,
                bool(self._entries[1].jump[row]),
                function,
                caches,
                self._amount(row),
                None if caches else self._flags(address, entry, function),
                self._reader.call,
            )
        return self._known[address]

    def _called(self, row: int) -> tuple[int, EntryPoint, Symbol]:
        entries, calls = self._entries
        address = int(calls.address[row])
        if address in self._known:
            function = self._known[address].function
        else:
            function = self._host.symbol_at(address) or _NO_SYMBOL
        return address, entries[int(calls.target[row])], function

    def _numbers(self, argument: int, call: int, function: Symbol) -> tuple[int, ...]:
        """All that a call may pass; empty where not all are constants, or there is no argument."""
        known, at = self._place(call, function) if argument >= 0 else (None, 0)
        return () if known is None else known.numbers(at, self._reader.isa.arguments[argument])

    def _amount(self, row: int) -> tuple[int, ...]:
        """All sizes, or orders of pages, that a place may ask for."""
        address = int(self._entries[1].address[row])
        if address not in self._amounts:
            _, entry, function = self._called(row)
            pages = entry.kind is Kind.PAGES
            number = entry.order if pages else entry.size
            found = self._numbers(number, address, function)
            self._amounts[address] = tuple(n & 0xFFFFFFFF for n in found) if pages else found
        return self._amounts[address]

    def _flags(self, call: int, entry: EntryPoint, function: Symbol) -> int | None:
        flags = self._numbers(flags_argument(entry, self._buckets), call, function)
        return flags[0] & 0xFFFFFFFF if len(flags) == 1 else None

    def _caches_of(self, call: int, entry: EntryPoint, function: Symbol) -> tuple[int, ...]:
        caches: set[int] = set()
        if entry.cache >= 0:
            known, at = self._place(call, function)
            if known is not None:
                values = known.before(at, self._reader.isa.arguments[entry.cache])
                caches = self._cache_values(values, known)
        for variable in entry.variable:
            place = self._host.address_of(variable)
            if place is not None and (word := self._peek(place)) is not None:
                caches.add(word)
        return tuple(sorted(caches & self._addresses))

    def _place(self, call: int, function: Symbol) -> tuple[Constants | None, int]:
        """Where a call is in its function, the last one kept: calls come in order of address."""
        if self._function[0] != function.address or not function.address:
            data = self._text(function, call)
            code = Code(data, function.address, self._reader.isa) if data else None
            known = None if code is None else self._reader.constants(code, self._peek)
            self._function = function.address, known
        known = self._function[1]
        at = None if known is None else known.code.at(call)
        return (None, 0) if at is None else (known, at)

    def _text(self, function: Symbol, call: int) -> bytes:
        # Where only crash names functions, nobody tells how long they are.
        size = function.size or min(call - function.address + 512, _MOST_FUNCTION_WITHOUT_SIZE)
        if not function.address or not call - function.address < size <= MOST_CODE:
            return b""
        try:
            return self._host.read(function.address, size)
        except ReadFault:
            return b""

    def _peek(self, address: int) -> int | None:
        if address not in self._peeked:
            self._peeked[address] = None
            # In crash a read that fails costs memory: only what constants of code lead to is asked.
            if any(a <= address < b for a, b in self._data):
                with suppress(ReadFault):
                    self._peeked[address] = u64(self._host, address)
        return self._peeked[address]

    @cached_property
    def _data(self) -> list[tuple[int, int]]:
        """[start, end) of the kernel image, of the modules, and of the direct map."""
        areas = [area for module in self._host.modules() for area in module.ranges]
        try:
            space = address_space(self._host)
        except (UnknownLayout, ReadFault):
            return areas
        return [*areas, *((r.start, r.end) for r in (space.image, space.direct))]

    def _cache_values(self, values: Values, known: Constants) -> set[int]:
        """Addresses that may be caches: given as such, from a variable, or just created."""
        found = set()
        for value in values:
            if value.what is What.CONSTANT:
                found.add(value.number)
            elif value.what is What.LOAD and (word := self._peek(value.number)) is not None:
                found.add(word)
            elif value.what is What.RESULT:
                found |= self._created(value.number, known)
        return found

    def _created(self, call: int, known: Constants) -> set[int]:
        """The cache that a function has made itself, by the name that it gave it."""
        at = known.code.at(call)
        target = None if at is None else known.code.all[at].target
        if at is None or target is None:
            return set()
        if jumps_on(self._host, target) not in self._creators:
            return set()
        found = set()
        for name in known.before(at, self._reader.isa.arguments[0]):
            if name.what is not What.CONSTANT:
                continue
            try:
                cache = self._caches.find(string(self._host, name.number))
            except ReadFault:
                continue
            found |= set() if cache is None else {cache.address}
        return found

    @cached_property
    def _reader(self) -> Reader:
        return reader(self._host)

    @cached_property
    def _creators(self) -> set[int | None]:
        return {self._host.address_of(name) for name in CREATING} - {None}

    @cached_property
    def _addresses(self) -> set[int]:
        return {c.address for c in self._caches.all}

    @cached_property
    def _buckets(self) -> bool:
        return self._host.address_of("kmem_buckets_create") is not None

    @cached_property
    def _sizes(self) -> list[int]:
        """Sizes of the kmalloc caches, ascending."""
        plain = (c for c in self._caches.all if family(c.name)[0].startswith("kmalloc-"))
        return sorted({c.object_size for c in plain})

    def _fitting(self, cache: SlabCache) -> _Fit:
        at = bisect_left(self._sizes, cache.object_size)
        below = self._sizes[at - 1] if at else 0
        name, variant = family(cache.name)
        return _Fit(cache, name.startswith("kmalloc-"), variant, below, self._kmalloc_type)

    @cached_property
    def _variants(self) -> set[str]:
        """Of the kmalloc caches that this kernel has."""
        return {family(c.name)[1] for c in self._caches.all}

    def _kmalloc_type(self, flags: int) -> str:
        """The variant of the kmalloc caches that gfp flags lead to; "" for the plain ones."""
        for bits, variant in ((_DMA, "dma"), (_RECLAIMABLE, "rcl"), (self._account, "cg")):
            if flags & bits and variant in self._variants:
                return variant
        return ""

    @cached_property
    def _account(self) -> int:
        """__GFP_ACCOUNT: 6.10 made the flags an enum of bits."""
        bit = self._host.enumerator("___GFP_ACCOUNT_BIT")
        return _ACCOUNT if bit is None else 1 << bit


@dataclass(frozen=True)
class _Fit:
    """Whether a request may be one for this cache."""

    cache: SlabCache
    kmalloc: bool
    variant: str
    below: int
    """Requests up to this size go to a smaller kmalloc cache."""
    type_of: Callable[[int], str]
    """The variant that gfp flags lead to."""

    def __call__(self, request: Request) -> bool:
        if request.caches:
            return self.cache.address in request.caches
        if request.entry.kind is Kind.SLAB and request.entry.size < 0:
            # A cache that the code does not tell: hardly one of kmalloc's.
            return request.entry.cache >= 0 and not self.kmalloc
        if not self.kmalloc:
            return False
        known = request.flags is not None and self.variant in _BY_FLAGS
        if known and self.type_of(request.flags or 0) != self.variant:
            return False
        return self.size(request.sizes)

    def size(self, sizes: tuple[int, ...]) -> bool:
        """Whether one of them is of this cache, or none is known."""
        return not sizes or any(self.below < size <= self.cache.object_size for size in sizes)


def _passes_on(request: Request) -> bool:
    """It is inside a function that does it for others: kmemdup(), alloc_skb()."""
    return not request.caches and allocates_for_others(request.function.name)


_KEPT: dict[Host, Requests] = {}
"""Of one kernel, the last that was asked about: what is kept holds its host, and so its dump."""


def requests_of(host: Host, caches: Caches) -> Requests:
    """The requests of a kernel: the text is read once, whoever asks."""
    if host not in _KEPT:
        _KEPT.clear()
        _KEPT[host] = Requests(host, caches)
    return _KEPT[host]

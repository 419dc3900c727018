"""Every place of kernel and module text that asks for memory: from which cache, and how much.

The index of calls is one pass over the text; what a call passes is read off the code before it,
for the places that somebody asks about, and no more of it than the answer takes: the code of a
kernel takes seconds. It knows only what is constant there: a size that is computed is unknown, and
the place may ask for any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from crashext.allocators import allocates_for_others
from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host, Symbol
from crashext.kernel.origin.called import Called
from crashext.kernel.origin.callees import Callees
from crashext.kernel.origin.callsites import CallSites, find_calls
from crashext.kernel.origin.constants import Constants, What
from crashext.kernel.origin.counting import Counting, counting
from crashext.kernel.origin.entrypoints import (
    ALIGNING,
    ALLOCATING,
    BUCKETS,
    FREEING,
    EntryPoint,
    Kind,
    flags_argument,
)
from crashext.kernel.origin.fitting import Fit, Fitting, Request
from crashext.kernel.origin.functions import Functions, image_areas
from crashext.kernel.origin.given import GivenCaches
from crashext.kernel.origin.handed import Handed
from crashext.kernel.origin.least import least
from crashext.kernel.origin.mentions import Mentions
from crashext.kernel.origin.readers import Reader, reader
from crashext.kernel.origin.stores import Filled, stores_after
from crashext.kernel.origin.structures import before_managed
from crashext.kernel.slab.caches import Caches, SlabCache

_MOST_POOLED = 1 << 20  # bytes of what a mempool of kmalloc() hands out; more is an address
_OF_AREAS = re.compile("_{0,2}v[mz]?alloc_", re.ASCII)
_AT_AN_ADDRESS = {What.CONSTANT, What.LOAD}
_NO_SYMBOL = Symbol("", 0, 0, "")
T = TypeVar("T")


class Requests:
    """Those of one kernel. What was read of a function is kept."""

    def __init__(self, host: Host, caches: Caches) -> None:
        self.host, self._caches = host, caches
        self._reader: Reader = reader(host)
        self._known: dict[int, Request] = {}
        self._amounts: dict[int, tuple[int, ...]] = {}
        self._supposed: dict[int, tuple[int, ...]] = {}
        self._filled: dict[int, Filled] = {}
        self._from: dict[int, list[Request]] = {}
        self._once: dict[Hashable, Any] = {}
        self._functions: dict[int, Symbol] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()`, which the same code answers for every group of a report: worked out once."""
        if key not in self._once:
            self._once[key] = compute()
        found: T = self._once[key]
        return found

    @cached_property
    def _entries(self) -> tuple[tuple[EntryPoint, ...], CallSites]:
        entries = (*ALLOCATING, *FREEING)
        addresses: dict[int, int] = {}
        for number, entry in enumerate(entries):
            address = self.host.address_of(entry.name)
            if address is not None:
                addresses.setdefault(address, number)  # aliases of one function
        return entries, find_calls(self.host, addresses)

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

        In order of address; the first time, before the next is asked for, the code of this one is
        at hand. Each group of a report asks.
        """
        known = self._from.get(cache.address)
        if known is not None:
            yield from known
            return
        fits, all_of_them = self._fitting.of(cache), []
        for row in self._rows((Kind.SLAB, Kind.SIZED)):
            if self._may_fit(row, fits):
                found = self._request(row)
                if fits(found) and not _passes_on(found):
                    all_of_them.append(found)
                    yield found
        self._from[cache.address] = all_of_them

    def _may_fit(self, row: int, fits: Fit) -> bool:
        """Whether the rest of a request is worth reading: most ask for another size."""
        entries, calls = self._entries
        entry = entries[int(calls.target[row])]
        sized = entry.size >= 0 or entry.kind is Kind.SIZED  # one of kmalloc's caches
        if not sized or not fits.kmalloc:
            return not sized
        return entry.size < 0 or fits.size(self._amount(row))

    def at(self, call: int) -> Request | None:
        """The request that a call is; None where it is none."""
        addresses = self._entries[1].address
        row = int(np.searchsorted(addresses, np.uint64(call)))
        return self._request(row) if row < len(addresses) and addresses[row] == call else None

    def place(self, request: Request) -> tuple[Constants | None, int]:
        """What is known of registers in the function around it, and which instruction it is."""
        return self.functions.place(request.call, request.function)

    def filled(self, request: Request) -> Filled:
        """What the function writes into the memory that it gets there."""
        # Each group of a cache's objects is held against the same places.
        if request.call not in self._filled:
            self._filled[request.call] = self._read_filled(request)
        return self._filled[request.call]

    def _read_filled(self, request: Request) -> Filled:
        known, at = None, 0
        if not request.jump and request.entry.returns:
            known, at = self.place(request)
        if known is None:
            return Filled()
        walk, given = self._reader.walk, None
        if request.entry.managed:
            if not self._managed:
                return Filled()
            given = {walk.result: self._managed}
        return stores_after(known.code, known, at, self.callees, walk, given)

    def supposed(self, request: Request) -> tuple[int, ...]:
        """Where no size is known: what it is if variables were what they are in the dump."""
        call, entry = request.call, request.entry
        if request.sizes or entry.size < 0 or entry.kind is Kind.PAGES:
            return ()
        if call not in self._supposed:
            known, at = self.place(request)
            register = self._reader.isa.arguments[entry.size]
            found = () if known is None else known.now(at, register)
            self._supposed[call] = self._whole(entry, found)
        return self._supposed[call]

    def counting(self, request: Request) -> Counting | None:
        """Where no size is known: how it comes of a number that the object holds."""
        # A sum is no less than the number in it.
        if request.sizes or request.jump or not request.least:
            return None
        return self.once(("counting", request.call), lambda: self._counting(request))

    def _counting(self, request: Request) -> Counting | None:
        known, at = self.place(request)
        register = self._reader.isa.arguments[request.entry.size]
        return None if known is None else counting(known, at, register, self._reader.walk)

    def called(self, functions: Iterable[int]) -> dict[int, int]:
        """How often the functions at these addresses are called directly; empty where text is
        missing."""
        return {} if self.all_calls is None else self.all_calls.times(functions)

    @property
    def call_length(self) -> int:
        """Bytes of a call instruction."""
        return self._reader.call

    @cached_property
    def all_calls(self) -> Called | None:
        """Every call in the text; None where some of that is missing."""
        calls = self._entries[1]
        whole = sum(len(data) for _, data in calls.kept.pieces) >= calls.text
        return Called(self.host, calls.kept) if whole and not calls.missing else None

    @cached_property
    def handed(self) -> Handed:
        """Who is called by functions that name a symbol."""
        return Handed(self.host, self._entries[1].kept)

    def mentions(self, kmalloc: bool) -> Mentions:
        """What functions name that ask for an object, of kmalloc()'s caches or of one that they
        name."""
        return self._of_kmalloc if kmalloc else self._of_caches

    @cached_property
    def _of_kmalloc(self) -> Mentions:
        return self._mentions([*self._rows((Kind.SLAB, Kind.SIZED))])

    @cached_property
    def _of_caches(self) -> Mentions:
        entries, calls = self._entries
        rows = self._rows((Kind.SLAB,))
        return self._mentions([r for r in rows if entries[int(calls.target[r])].size < 0])

    def _mentions(self, rows: list[int]) -> Mentions:
        texts: dict[int, bytes] = {}
        for row in rows:
            address, _, function = self._called(row)
            texts[function.address] = self.functions.text(function, address)
        areas = image_areas(self.host)
        return Mentions(texts, areas, self.host.info().arch == ARM64)

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
                self._least(address, entry, function, row),
            )
        return self._known[address]

    def _called(self, row: int) -> tuple[int, EntryPoint, Symbol]:
        entries, calls = self._entries
        address = int(calls.address[row])
        function = self._functions.get(address)
        if function is None:
            function = self.host.symbol_at(address) or _NO_SYMBOL
            self._functions[address] = function
        return address, entries[int(calls.target[row])], function

    def _numbers(self, argument: int, call: int, function: Symbol) -> tuple[int, ...]:
        """All that a call may pass; empty where not all are constants, or there is no argument."""
        known, at = self.functions.place(call, function) if argument >= 0 else (None, 0)
        return () if known is None else known.numbers(at, self._reader.isa.arguments[argument])

    def _amount(self, row: int) -> tuple[int, ...]:
        """All sizes, or orders of pages, that a place may ask for."""
        address = int(self._entries[1].address[row])
        if address not in self._amounts:
            _, entry, function = self._called(row)
            pages = entry.kind is Kind.PAGES
            number = entry.order if pages else entry.cache if entry.filling else entry.size
            found = self._numbers(number, address, function)
            if entry.filling:  # of kmalloc(), or the address of a cache
                found = tuple(n for n in found if 0 < n <= _MOST_POOLED)
            found = self._whole(entry, found)
            self._amounts[address] = tuple(n & 0xFFFFFFFF for n in found) if pages else found
        return self._amounts[address]

    def _least(self, call: int, entry: EntryPoint, function: Symbol, row: int) -> int:
        """The least that is asked for where it is worked out at run time."""
        if entry.kind is not Kind.SIZED or entry.size < 0 or self._amount(row):
            return 0
        known, at = self.functions.place(call, function)
        found = 0 if known is None else least(known, at, self._reader.isa.arguments[entry.size])
        return next(iter(self._whole(entry, (found,))), 0)

    def _whole(self, entry: EntryPoint, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of whole objects, of sizes that were asked for."""
        return tuple(n + self._managed for n in sizes if self._managed) if entry.managed else sizes

    def _flags(self, call: int, entry: EntryPoint, function: Symbol) -> int | None:
        flags = self._numbers(flags_argument(entry, *self._arguments), call, function)
        return flags[0] & 0xFFFFFFFF if len(flags) == 1 else None

    def _caches_of(self, call: int, entry: EntryPoint, function: Symbol) -> tuple[int, ...]:
        caches: set[int] = set()
        if entry.cache >= 0:
            known, at = self.functions.place(call, function)
            if known is not None:
                values = known.before(at, self._reader.isa.arguments[entry.cache])
                caches = self._given.of(values, known)
                # Its variable holds no cache, or it was made under a name that none has: none that
                # is there now came from it.
                if caches == {0} or (
                    not caches & self._addresses and {v.what for v in values} == {What.LOAD}
                ):
                    return (0,)
        elif entry.pool >= 0:
            known, at = self.functions.place(call, function)
            if known is not None:
                values = known.before(at, self._reader.isa.arguments[entry.pool])
                given = self._given.pools(values)
                # A pool that is not there, or that hands out pages, or what kmalloc() gave it.
                none = given is not None and not given & self._addresses
                if none and {v.what for v in values} <= _AT_AN_ADDRESS:
                    return (0,)
                caches = given or set()
        for variable in entry.variable:
            place = self.host.address_of(variable)
            if place is not None and (word := self.peek(place)) is not None:
                caches.add(word)
        return tuple(sorted(caches & self._addresses))

    @cached_property
    def functions(self) -> Functions:
        """The functions that the calls are in."""
        return Functions(self.host, self._reader, self._entries[1].kept)

    def peek(self, address: int) -> int | None:
        """A word of the dump that code leads to; None where it cannot be read."""
        return self.functions.peek(address)

    @cached_property
    def _managed(self) -> int:
        return before_managed(self.host)

    @cached_property
    def _given(self) -> GivenCaches:
        return GivenCaches(self.host, self._caches, self._reader, self.functions.peek)

    @cached_property
    def callees(self) -> Callees:
        """Functions that get the memory."""
        return Callees(self.host, self.functions)

    @cached_property
    def _fitting(self) -> Fitting:
        return Fitting(self.host, self._caches)

    @cached_property
    def _addresses(self) -> set[int]:
        return {c.address for c in self._caches.all}

    @cached_property
    def _arguments(self) -> tuple[bool, bool]:
        """Whether functions of this kernel are told buckets, and an alignment."""
        buckets, aligning = (self.host.address_of(n) is not None for n in (BUCKETS, ALIGNING))
        return buckets, aligning


def _passes_on(request: Request) -> bool:
    """It is inside a function that does it for others: kmemdup(), alloc_skb().

    What vmalloc() asks of kmalloc() is its own: an area's array of pages.
    """
    if request.caches or _OF_AREAS.match(request.function.name):
        return False
    return allocates_for_others(request.function.name)


_KEPT: dict[Host, Requests] = {}
"""Of one kernel, the last that was asked about: what is kept holds its host, and so its dump."""


def requests_of(host: Host, caches: Caches) -> Requests:
    """The requests of a kernel: the text is read once, whoever asks."""
    if host not in _KEPT:
        _KEPT.clear()
        _KEPT[host] = Requests(host, caches)
    return _KEPT[host]

"""Which places in modules free objects of a cache, and how sure that is.

kmem_cache_free() is given the cache; where the code does not tell which, it may be this one, but
none of kmalloc()'s. kfree() is given none: it counts where what it frees was allocated in
the same function, as much of it as the cache is for; otherwise it only may. What call_rcu() has
freed later is decided by the function that it is given: where no call that frees what was passed
is found in that, or one level of functions below, it is none. What a function gets a pointer to,
or writes to, beyond the end of this cache's objects is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from crashext.hosts.base import Host
from crashext.kernel.origin.constants import Value, What
from crashext.kernel.origin.entrypoints import KFREE, LATER, LATER_BY_ITSELF, Kind
from crashext.kernel.origin.fitting import Fit, Fitting, Request
from crashext.kernel.origin.readers import reader
from crashext.kernel.origin.requests import Requests
from crashext.kernel.origin.stores import Walk
from crashext.kernel.origin.thunks import meant
from crashext.kernel.slab.caches import Caches, SlabCache

_LONGEST = 2048  # bytes of a function that is looked into
_DEEPEST = 2
_RCU_HEAD = 16  # bytes: struct callback_head is two pointers


class Sure(IntEnum):
    """Whether objects of a cache are freed at a place."""

    NO = 0
    PERHAPS = 1
    YES = 2


class Freeing:
    """Of one kernel."""

    def __init__(self, host: Host, caches: Caches, requests: Requests) -> None:
        self._host, self._requests = host, requests
        self._reader, self._fitting = reader(host), Fitting(host, caches)
        self._walks: dict[tuple[int, int], Walk | None] = {}
        self._origins: dict[int, tuple[Value, ...]] = {}

    def of(self, cache: SlabCache, module: str) -> Iterator[tuple[Request, Sure]]:
        """The places in a module that free objects of `cache`, or may."""
        fits = self._fitting.of(cache)
        areas = [r for m in self._host.modules() if m.name == module for r in m.ranges]
        for request in self._requests.of((Kind.FREE,), areas):
            sure = self._judge(request, fits)
            if sure:
                yield request, sure

    def _judge(self, request: Request, fits: Fit) -> Sure:
        if request.entry.name in LATER:
            return self._later(request, fits)
        if request.entry.cache >= 0:
            if request.caches or fits.kmalloc:
                return Sure.YES if fits.cache.address in request.caches else Sure.NO
            return Sure.PERHAPS
        if not fits.kmalloc or request.entry.name not in KFREE:
            return Sure.NO
        if request.entry.name in LATER_BY_ITSELF and self._head_beyond(request, fits):
            return Sure.NO
        if self._larger(request, fits.cache.object_size):
            return Sure.NO
        return self._by_origin(request, fits)

    def _head_beyond(self, request: Request, fits: Fit) -> bool:
        """kfree_call_rcu() was given the struct rcu_head's offset, up to 6.4 (04a522b7da3d)."""
        known, at = self._requests.place(request)
        given = () if known is None else known.numbers(at, self._reader.isa.arguments[1])
        return any(fits.cache.object_size - _RCU_HEAD < n < 1 << 12 for n in given)

    def _larger(self, request: Request, size: int) -> bool:
        """Whether it frees what its function's first argument points to, or into, and that is
        larger: by what the function writes, or how far in the argument points."""
        walk = self._walk(request.function.address, 0)
        if walk is None:
            return False
        passed = {(call, number): offset for call, _, number, offset in walk.passed}
        start = passed.get((request.call, request.entry.object))
        if start is None:
            return False
        ends = [w.offset + w.size for w in walk.written.values()]
        return max([1, *ends]) - start > size

    def _by_origin(self, request: Request, fits: Fit) -> Sure:
        """By where what is freed came from."""
        judged = set()
        for value in self._origin(request):
            if value.what is What.CONSTANT:  # NULL, where there was no memory
                continue
            made = self._requests.at(value.number) if value.what is What.RESULT else None
            if made is None or not (made.caches or made.sizes):
                judged.add(Sure.PERHAPS)
            else:
                judged.add(Sure.YES if fits(made) else Sure.NO)
        return max(judged, default=Sure.PERHAPS)

    def _origin(self, request: Request) -> tuple[Value, ...]:
        """What is freed, as far as the function tells; nothing where it does not tell all."""
        if request.call not in self._origins:
            known, at = self._requests.place(request)
            register = self._reader.isa.arguments[request.entry.object]
            found = () if known is None else tuple(known.results(at, register))
            self._origins[request.call] = found
        return self._origins[request.call]

    def _later(self, request: Request, fits: Fit) -> Sure:
        """What call_rcu() is given: a function, which gets the struct rcu_head in the object."""
        known, at = self._requests.place(request)
        values = () if known is None else known.before(at, self._reader.isa.arguments[1])
        judged = {
            self._passed(value.number, 0, 0, fits)
            for value in values
            if value.what is What.CONSTANT
        }
        return max(judged, default=Sure.NO)

    def _passed(self, function: int, argument: int, head: int, fits: Fit, depth: int = 0) -> Sure:
        """Whether a function frees the object that its argument points into, `head` bytes in."""
        found, walk = Sure.NO, self._walk(function, argument)
        for call, to, number, offset in () if walk is None else walk.passed:
            inside = head - offset
            request = self._requests.at(call)
            if request is None:
                if depth + 1 < _DEEPEST:
                    found = max(found, self._passed(to, number, inside, fits, depth + 1))
            elif (
                number == request.entry.object and 0 <= inside <= fits.cache.object_size - _RCU_HEAD
            ):
                sure = self._judge(request, fits) if request.entry.name not in LATER else Sure.NO
                found = max(found, sure)
        return found

    def _walk(self, function: int, argument: int) -> Walk | None:
        """What a function does with the pointer that it gets."""
        function = meant(self._host, function)
        key = function, argument
        if key not in self._walks:
            self._walks[key] = self._read(function, argument)
        return self._walks[key]

    def _read(self, function: int, argument: int) -> Walk | None:
        symbol = self._host.symbol_at(function)
        if symbol is None or symbol.address != function or not 0 < symbol.size <= _LONGEST:
            return None
        known = self._requests.functions.whole(symbol)
        if known is None:
            return None
        walk = self._reader.walk(known.code, known, None, {self._reader.isa.arguments[argument]: 0})
        walk.follow(0)
        return walk

"""Where the address of what a place allocates is kept: by its function, or by who calls that.

A constructor returns what it made, and its caller keeps it; often two calls up.
"""

from __future__ import annotations

from collections.abc import Iterator

from crashext.hosts.base import Symbol
from crashext.kernel.access import Words
from crashext.kernel.origin.constants import Value, What
from crashext.kernel.origin.fitting import Request
from crashext.kernel.origin.kept import Kept, stepped
from crashext.kernel.origin.requests import Requests
from crashext.kernel.origin.stores import stores_after

_DEEPEST = 2
_MOST_CALLERS = 24
"""Of a function; more are a sample, spread over all text."""
_IN_ARRAY = frozenset((Kept("array", 0, 0),))


class Keepers:
    """Of one kernel."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._symbol_at = requests.host.symbol_at
        self._passed: dict[tuple[int, int], frozenset[Kept]] = {}
        self._returned: dict[tuple[int, int], frozenset[Kept]] = {}
        self._known: dict[int, frozenset[Kept]] = {}

    def of(self, request: Request) -> frozenset[Kept]:
        """All that is seen to keep the address of what the request gets."""
        # Each group of a report asks, and what is read of the code is the same for all of them.
        if request.call not in self._known:
            self._known[request.call] = self._find(request)
        return self._known[request.call]

    def _find(self, request: Request) -> frozenset[Kept]:
        if request.entry.bulk or request.entry.filling:
            return _IN_ARRAY
        if request.jump:
            known = request.entry.returns
            return self._by_callers(request.function, 0, 1) if known else frozenset()
        filled = self._requests.filled(request)
        kept = frozenset(filled.kept)
        kept |= self._through_arguments(request.function, kept)
        if filled.returned is None:
            return kept
        return kept | self._by_callers(request.function, filled.returned, 1)

    def _by_callers(self, function: Symbol, inside: int, depth: int) -> frozenset[Kept]:
        """What is done with the address that the function returns, `inside` bytes in."""
        key = function.address, inside
        if key in self._returned or depth > _DEEPEST or not function.address:
            return self._returned.get(key, frozenset())
        self._returned[key] = frozenset()  # whoever calls itself adds nothing
        found: set[Kept] = set()
        for call in self._callers(function.address):
            found |= self._by_caller(call, inside, depth)
        self._returned[key] = frozenset(found)
        return self._returned[key]

    def _through_arguments(self, function: Symbol, kept: frozenset[Kept]) -> frozenset[Kept]:
        """What the callers have at the places that the function is told to keep the address at."""
        found: set[Kept] = set()
        for one in kept:
            inside = one.store - function.address
            if one.where == "member" and not one.at and 0 <= inside < function.size:
                for place in self._told(function, one.store, one.base):
                    found.add(place._replace(inside=one.inside))
        return frozenset(found)

    def _told(self, function: Symbol, store: int, base: str) -> frozenset[Kept]:
        """Members whose address callers pass to a function as the one that a register holds."""
        functions = self._requests.functions
        known, at = functions.place(store, function)
        values = frozenset[Value]() if known is None else known.before(at, base)
        if len(values) != 1 or (value := next(iter(values))).what is not What.ARGUMENT:
            return frozenset()
        key = function.address, value.number
        if key not in self._passed:
            register = functions.reader.isa.arguments[value.number]
            calls = self._callers(function.address)
            self._passed[key] = frozenset(k for c in calls for k in self._given(c, register))
        return self._passed[key]

    def _given(self, call: int, register: str) -> Iterator[Kept]:
        """The members whose address a call may pass in a register."""
        caller = self._symbol_at(call)
        functions = self._requests.functions
        known, at = (None, 0) if caller is None else functions.place(call, caller)
        for definition in [] if known is None else known.set_at(at, register):
            one = None if definition is None or known is None else known.code.all[definition]
            place = None if one is None else stepped(one)
            if one is not None and place is not None:
                yield Kept("member", place[1], 0, one.address, place[0])

    def _callers(self, function: int) -> list[int]:
        calls = self._requests.all_calls
        if calls is None:
            return []
        found: Words = calls.calls_of([function])[function]
        step = -(-len(found) // _MOST_CALLERS) or 1
        return [int(call) for call in found[::step]]

    def _by_caller(self, call: int, inside: int, depth: int) -> frozenset[Kept]:
        caller = self._symbol_at(call)
        if caller is None:
            return frozenset()
        functions = self._requests.functions
        known, at = functions.place(call, caller)
        if known is None:
            return frozenset()
        if known.code.all[at].jumps:
            return self._by_callers(caller, inside, depth + 1)
        walk = functions.reader.walk
        given = {walk.result: inside}
        filled = stores_after(known.code, known, at, self._requests.callees, walk, given)
        kept = frozenset(filled.kept)
        if filled.returned is None:
            return kept
        return kept | self._by_callers(caller, filled.returned, depth + 1)

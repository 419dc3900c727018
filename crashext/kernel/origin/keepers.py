"""Where the address of what a place allocates is kept: by its function, or by who calls that.

A constructor returns what it made, and its caller keeps it; often two calls up.
"""

from __future__ import annotations

from collections.abc import Iterator

from crashext.hosts.base import Symbol
from crashext.kernel.access import Words
from crashext.kernel.origin.constants import Constants, Value, What
from crashext.kernel.origin.fitting import Request
from crashext.kernel.origin.instruction import Instruction
from crashext.kernel.origin.kept import Kept, stepped
from crashext.kernel.origin.requests import Requests
from crashext.kernel.origin.stores import kept_after

_DEEPEST = 2
_MOST_COPIES = 2
_MOST_CALLERS = 24
"""Of a function; more are a sample, spread over all text."""
_IN_ARRAY, _IN_RESERVE = frozenset((Kept("array", 0, 0),)), frozenset((Kept("reserve", 0, 0),))
_Step = tuple[frozenset[Kept], tuple[tuple[Symbol, int], ...]]
"""What is kept, and functions that return the address to their callers, and how far into the
object."""
_NOTHING: _Step = (frozenset(), ())


class Keepers:
    """Of one kernel."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._symbol_at = requests.host.symbol_at
        self._passed: dict[tuple[int, int], frozenset[Kept]] = {}
        self._returned: dict[tuple[int, int], _Step] = {}
        self._known: dict[int, frozenset[Kept]] = {}

    def of(self, request: Request) -> frozenset[Kept]:
        """All that is seen to keep the address of what the request gets."""
        # Each group of a report asks, and what is read of the code is the same for all of them.
        if request.call not in self._known:
            self._known[request.call] = self._find(request)
        return self._known[request.call]

    def _find(self, request: Request) -> frozenset[Kept]:
        if request.entry.filling:
            return _IN_RESERVE
        if request.entry.bulk:
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
        if depth > _DEEPEST or not function.address:
            return frozenset()
        kept, on = self._next(function, inside)
        # What is read of one step is kept, not how far it was followed: a place that is asked about
        # first would be answered by more steps than the same place later.
        return kept.union(*(self._by_callers(f, i, depth + 1) for f, i in on))

    def _next(self, function: Symbol, inside: int) -> _Step:
        """What the callers of the function keep of what it returns, and what they return on."""
        key = function.address, inside
        if key not in self._returned:
            kept, on = set[Kept](), dict[tuple[Symbol, int], None]()
            for call in self._callers(function.address):
                one, further = self._by_caller(call, inside)
                kept |= one
                on |= dict.fromkeys(further)
            self._returned[key] = frozenset(kept), tuple(on)
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
        if known is not None:
            for one in self._makes(known, at, register, 0):
                place = stepped(one)
                if place is not None:
                    yield Kept("member", place[1], 0, one.address, place[0])

    def _makes(self, known: Constants, at: int, register: str, depth: int) -> Iterator[Instruction]:
        """What sets a register, copies seen through: who needs an address again keeps it in
        another one."""
        for definition in known.set_at(at, register):
            if definition is None:
                continue
            one = known.code.all[definition]
            source, bits = known.registers.get(one.parts[-1], ("", 0)) if one.parts else ("", 0)
            if one.mnemonic == "mov" and bits == 64 and depth < _MOST_COPIES:
                yield from self._makes(known, definition, source, depth + 1)
            else:
                yield one

    def _callers(self, function: int) -> list[int]:
        calls = self._requests.all_calls
        if calls is None:
            return []
        found: Words = calls.calls_of([function])[function]
        step = -(-len(found) // _MOST_CALLERS) or 1
        return [int(call) for call in found[::step]]

    def _by_caller(self, call: int, inside: int) -> _Step:
        caller = self._symbol_at(call)
        if caller is None:
            return _NOTHING
        functions = self._requests.functions
        known, at = functions.place(call, caller)
        if known is None:
            return _NOTHING
        if known.code.all[at].jumps:
            return frozenset(), ((caller, inside),)
        callees, walk = self._requests.callees, functions.reader.walk
        kept, returned = kept_after(known, at, callees, walk, inside)
        return kept, () if returned is None else ((caller, returned),)

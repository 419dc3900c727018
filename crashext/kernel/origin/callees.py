"""What functions write into the memory that they are given: one call deep, and one more.

Constructors are mostly not inlined (kobject_init_and_add(), klist_init(), a module's own), and what
they write is as telling as what the function writes that allocated.
"""

from __future__ import annotations

from crashext.hosts.base import Host
from crashext.kernel.origin.constants import Peek
from crashext.kernel.origin.entrypoints import ALLOCATING, FREEING
from crashext.kernel.origin.functions import Functions
from crashext.kernel.origin.kept import Kept
from crashext.kernel.origin.passed import slot_of
from crashext.kernel.origin.stores import Written
from crashext.kernel.origin.thunks import meant

_LONGEST, _LONGEST_OF_MANY = 2048, 4096
"""Bytes of a function that is looked into; of one that gets it after `_MANY` other arguments."""
_MANY = 6
_DEEPEST = 2
_COPY = ("memcpy", "__memcpy", "memmove", "__memmove")

_THUNKS = (
    *("__x86_return_thunk", "retbleed_return_thunk", "srso_return_thunk", "zen_untrain_ret"),
    *("srso_alias_return_thunk", "call_depth_return_thunk", "its_return_thunk"),
)
"""What returns are patched to."""
_Done = tuple[tuple[Written, ...], frozenset[Kept]]
_NOTHING: _Done = (), frozenset()


class Callees:
    """Functions of one kernel that get a pointer; what was read of them is kept."""

    def __init__(self, host: Host, functions: Functions) -> None:
        self._host, self._functions = host, functions
        self._reader = functions.reader
        self.peek: Peek = functions.peek
        # They hand out the memory, or take it back, and what they write into it is not what stays.
        names = {e.name for e in (*ALLOCATING, *FREEING)}
        self._barred = {host.address_of(name) for name in names}
        self._copies = {host.address_of(name) for name in _COPY}
        self._thunks = {host.address_of(name) for name in _THUNKS}
        self._known: dict[tuple[int, int, int], _Done] = {}
        self._meant: dict[int, int] = {}

    def copies(self, target: int) -> bool:
        """Whether it is memcpy()."""
        return self._function(target) in self._copies

    def _function(self, target: int) -> int:
        if target not in self._meant:
            self._meant[target] = meant(self._host, target)
        return self._meant[target]

    def returns(self, target: int) -> bool:
        """Whether a jump there is a return."""
        return target in self._thunks

    def written(self, target: int, argument: int, depth: int = 1) -> tuple[Written, ...]:
        """What the function at `target` writes where its argument, by number, points to."""
        return self._done(target, argument, depth)[0]

    def kept(self, target: int, argument: int, depth: int = 1) -> frozenset[Kept]:
        """Where it keeps that argument."""
        return self._done(target, argument, depth)[1]

    def _done(self, target: int, argument: int, depth: int) -> _Done:
        target = self._function(target)
        key = (target, argument, depth)
        if key not in self._known:
            self._known[key] = _NOTHING  # whoever calls itself adds nothing
            self._known[key] = self._read(target, argument, depth)
        return self._known[key]

    def _read(self, target: int, argument: int, depth: int) -> _Done:
        if depth > _DEEPEST or target in self._barred or target in self._copies:
            return _NOTHING
        symbol = self._host.symbol_at(target)
        registers = self._reader.isa.arguments
        longest = _LONGEST if argument < _MANY else _LONGEST_OF_MANY
        if symbol is None or symbol.address != target or not 0 < symbol.size <= longest:
            return _NOTHING
        known = self._functions.whole(symbol)
        if known is None:
            return _NOTHING
        given = {slot_of(known.code, argument) or registers[argument]: 0}
        walk = self._reader.walk(known.code, known, self, given, depth + 1)
        walk.follow(0)
        return tuple(walk.written.values()), frozenset(walk.kept)

"""What kind of memory a register leads to, by the types that BTF has of functions and members.

An argument has the type of the parameter, what a function returned has the type that it is declared
to return, and what a member holds that of the member. What was just allocated is of its cache.
"""

from __future__ import annotations

from typing import NamedTuple

from crashext.hosts.base import Host
from crashext.kernel.btf import Btf
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.instruction import Instruction, slot
from crashext.kernel.origin.kept import Kept, member, stepped
from crashext.kernel.origin.requests import Requests
from crashext.kernel.origin.thunks import meant

_DEEPEST = 10
_NESTED = 12
_ANYWHERE = 32
"""Bytes of a struct up to which it is one of the small ones that are in any other."""
_MOVES = ("mov", "movabs")
_SETS_RESULT = ("call", "bl")


class Base(NamedTuple):
    """A struct that an address leads into, or an object that was just allocated."""

    name: str
    """``task_struct``; "" for an object."""
    size: int
    """In bytes; of an object that was asked for of kmalloc()."""
    offset: int
    """How far in the address leads."""
    cache: int = 0
    """Address of the cache that an object was allocated from."""
    type: int = 0
    """The struct's number in BTF."""


class Bases:
    """Of one kernel."""

    def __init__(self, requests: Requests, btf: Btf | None) -> None:
        self._requests, self._btf = requests, btf
        self._host: Host = requests.host
        self._known: dict[tuple[int, str], Base | None] = {}
        self._wholes: dict[tuple[int, int], dict[int, tuple[str, ...]]] = {}
        self._sized: dict[int, list[int]] = {}
        self._members: dict[int, list[tuple[int, int, int]]] = {}

    def of(self, kept: Kept) -> Base | None:
        """What the place is in where an address is kept; None where nothing tells."""
        key = kept.store, kept.base
        if key not in self._known:
            self._known[key] = self._find(kept)
        return self._known[key]

    @staticmethod
    def anywhere(base: Base) -> bool:
        """Whether it is one of the small ones, a list's head or a tree's root, that are in any."""
        return base.size <= _ANYWHERE

    def flexible(self, base: Base) -> bool:
        """Whether it may be larger than it is declared."""
        return self._btf is not None and bool(base.type) and self._btf.flexible(base.type)

    def known(self, name: str, size: int) -> bool:
        """Whether there is a struct of that name and size."""
        btf = self._btf
        if btf is None:
            return False
        return any(btf.size(n) == size for n in btf.named(BtfKind.STRUCT).get(name, ()))

    def wholes(self, base: Base, offset: int, size: int) -> tuple[str, ...]:
        """Structs of `size` bytes that have this one as a part, at `offset`, by name."""
        if self._btf is None or offset + base.size > size:
            return ()
        if not base.type or offset < 0:
            return ()
        key = offset, size
        if key not in self._wholes:
            self._wholes[key] = self._at(offset, size)
        return self._wholes[key].get(base.type, ())

    def _at(self, offset: int, size: int) -> dict[int, tuple[str, ...]]:
        """What is at an offset of structs of `size` bytes: of each type these structs, by name."""
        btf = self._btf
        assert btf is not None
        if size not in self._sized:
            self._sized[size] = btf.structs(size, size).tolist()
        found: dict[int, list[int]] = {}
        for number in self._sized[size]:
            for part in self._parts_at(number, offset, 0):
                found.setdefault(part, []).append(number)
        return {part: tuple(map(btf.name, numbers)) for part, numbers in found.items()}

    def _parts_at(self, number: int, offset: int, depth: int) -> set[int]:
        """The type itself and those of its members, their members and so on that begin at an
        offset."""
        btf = self._btf
        assert btf is not None
        found = set() if offset else {number}
        if depth <= _NESTED and btf.kind[number] in (BtfKind.STRUCT, BtfKind.UNION):
            for first, size, inner in self._parts(number):
                if 0 <= offset - first < size:
                    found |= self._parts_at(inner, offset - first, depth + 1)
        return found

    def _parts(self, number: int) -> list[tuple[int, int, int]]:
        """(offset, size, type) of a struct's members: most are asked about again and again."""
        btf = self._btf
        assert btf is not None
        if number not in self._members:
            self._members[number] = [
                (one.bit_offset // 8, btf.size(one.type), btf.strip(one.type))
                for one in btf.members(number)
            ]
        return self._members[number]

    def _find(self, kept: Kept) -> Base | None:
        function = self._host.symbol_at(kept.store)
        if function is None or not kept.base:
            return None
        known, at = self._requests.functions.place(kept.store, function)
        if known is None:
            return None
        found = _Search(self._host, self._requests, self._btf, known, function.name)
        answer = found.at(at, kept.base, 0)
        return None if answer is None else found.described(answer)


_Typed = tuple[int, int]
"""A struct's number in BTF and how far into it."""


class _Search:
    """In one function."""

    def __init__(
        self, host: Host, requests: Requests, btf: Btf | None, known: Constants, function: str
    ) -> None:
        self._host, self._requests, self._btf = host, requests, btf
        self._known, self._function = known, function
        self._found: dict[tuple[int, str, int], _Typed | Base | None] = {}

    def described(self, found: _Typed | Base) -> Base:
        if isinstance(found, Base):
            return found
        assert self._btf is not None
        number, offset = found
        return Base(self._btf.name(number), self._btf.size(number), offset, 0, number)

    def at(self, i: int, place: str, depth: int) -> _Typed | Base | None:
        """What a register, or a slot of the stack, leads to before the instruction at place `i`."""
        if depth > _DEEPEST:
            return None
        # Where ways meet, and meet again, it would be asked once for every way.
        key = i, place, depth
        if key not in self._found:
            self._found[key] = self._search(i, place, depth)
        return self._found[key]

    def _search(self, i: int, place: str, depth: int) -> _Typed | Base | None:
        for definition in self._known.set_at(i, place):
            found: _Typed | Base | None = (
                self._argument(place)
                if definition is None
                else self._set_by(definition, place, depth + 1)
            )
            if found is not None:
                return found
        return None

    def _set_by(self, i: int, place: str, depth: int) -> _Typed | Base | None:
        one = self._known.code.all[i]
        if one.mnemonic in _SETS_RESULT:
            return self._result(one)
        parts = one.parts
        if len(parts) != 2 or self._whole(parts[0]) != place:
            return None
        if one.mnemonic in _MOVES:
            return self._moved(i, parts[1], depth)
        where = stepped(one)
        return None if where is None else self._further(i, where, depth)

    def _whole(self, operand: str) -> str:
        name, bits = self._known.registers.get(operand, ("", 0))
        return name if bits == 64 else slot(operand) or ""

    def _moved(self, i: int, source: str, depth: int) -> _Typed | Base | None:
        place = self._whole(source)
        if place:
            return self.at(i, place, depth)
        where = member(source)
        if where is None or self._btf is None:
            return None
        found = self._further(i, where, depth)
        if found is None or isinstance(found, Base):
            return None
        return self._held(*found)

    def _further(self, i: int, where: tuple[str, int], depth: int) -> _Typed | Base | None:
        found = self.at(i, where[0], depth)
        if isinstance(found, Base):
            return found._replace(offset=found.offset + where[1])
        return None if found is None else (found[0], found[1] + where[1])

    def _argument(self, place: str) -> _Typed | None:
        passed = self._known.code.isa.arguments
        return (
            self._of_function(self._function, 1 + passed.index(place)) if place in passed else None
        )

    def _result(self, call: Instruction) -> _Typed | Base | None:
        request = self._requests.at(call.address)
        if request is not None:
            if request.caches:
                size = max(request.sizes, default=0)
                return Base("", size, 0, request.caches[0])
            return Base("", max(request.sizes), 0) if request.sizes else None
        if call.target is None:
            return None
        symbol = self._host.symbol_at(meant(self._host, call.target))
        return None if symbol is None else self._of_function(symbol.name, 0)

    def _of_function(self, name: str, number: int) -> _Typed | None:
        """What the function returns, or one of its arguments, from 1 on."""
        if self._btf is None:
            return None
        for function in self._btf.functions(name):
            types = self._btf.prototype(self._btf.target(function))
            if number < len(types):
                return self._pointed(types[number])
        return None

    def _pointed(self, number: int) -> _Typed | None:
        """The struct that a type points to."""
        btf = self._btf
        assert btf is not None
        pointer = btf.strip(number)
        if btf.kind[pointer] != BtfKind.PTR:
            return None
        inner = btf.strip(btf.target(pointer))
        return (inner, 0) if btf.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION) else None

    def _held(self, number: int, offset: int) -> _Typed | None:
        """What the member of a struct at an offset points to."""
        btf = self._btf
        assert btf is not None
        for _ in range(_NESTED):
            kind = btf.kind[number]
            if kind == BtfKind.ARRAY:
                number, _ = btf.array(number)
                number = btf.strip(number)
                size = btf.size(number)
                offset = offset % size if size else 0
                continue
            if kind not in (BtfKind.STRUCT, BtfKind.UNION):
                return self._pointed(number) if not offset else None
            for one in btf.members(number):
                inside = offset - one.bit_offset // 8
                if 0 <= inside < max(btf.size(one.type), 1):
                    number, offset = btf.strip(one.type), inside
                    break
            else:
                return None
        return None

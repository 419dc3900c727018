"""What a function writes into the memory that it has just allocated.

Forward from the call, along the way that is taken when there was memory: copies of the returned
pointer in registers and stack slots, stores through them, and what the functions do that get it.
After a branch on anything else a store may or may not be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from crashext.hosts.base import U64
from crashext.kernel.origin.code import REGISTERS, Code
from crashext.kernel.origin.constants import MEMORY, Constants, Peek, What, width
from crashext.kernel.origin.instruction import Instruction, slot
from crashext.kernel.origin.kept import Kept, framed, kept_by, stepped, tagged
from crashext.kernel.origin.passed import pushed

_MOST_INSTRUCTIONS = 400
_MOST_FORKS = 16
_MOST_STORES = 16
_MOST_WORDS = 512
_MOST_COPIED = 16  # words of a template
_TELLING = 0x10000  # numbers from here on are rarely alike by chance
_EQUAL, _UNEQUAL = ("je", "jz"), ("jne", "jnz")
_CALLS = ("call", "bl")
_Kind = Literal["value", "self", "argument", "unknown"]
_COPY = {"rep movsq": 8, "rep movsb": 1, "rep movsd": 4}


@dataclass(frozen=True, slots=True)
class Store:
    """The last thing that is written to one place of the object."""

    offset: int
    size: int
    kind: Literal["value", "self"]
    """A number, or the address of the object itself plus one."""
    value: U64
    certain: bool
    """No branch comes before it but that on whether there was memory at all."""
    doubtful: bool = False
    """It is from a variable, as the dump has it, or behind a branch of a function that is called:
    that it is not there says nothing."""


@dataclass(frozen=True, slots=True)
class Written:
    """A store of a function into memory that it was given."""

    offset: int
    size: int
    kind: _Kind
    value: int
    """Of an argument its number; 0 of what is not known."""
    certain: bool
    doubtful: bool = False


class Called(Protocol):
    """What is known of functions that get a pointer."""

    peek: Peek

    def copies(self, target: int) -> bool: ...

    def returns(self, target: int) -> bool: ...

    def written(self, target: int, argument: int, depth: int) -> tuple[Written, ...]: ...

    def kept(self, target: int, argument: int, depth: int) -> frozenset[Kept]: ...


@dataclass(frozen=True, slots=True)
class Filled:
    """What a function does with the memory that it gets."""

    stores: tuple[Store, ...] = ()
    """By offset; the telling ones, where there are many."""
    words: tuple[int, ...] = ()
    """Words of the object, by number, that it writes something else to."""
    kept: tuple[Kept, ...] = ()
    """Where it keeps the object's address."""
    returned: int | None = None
    """How far into the object what it returns leads; None where it does not return it."""


def stores_after(
    code: Code,
    known: Constants,
    call: int,
    called: Called | None = None,
    way: type[Walk] | None = None,
    given: Mapping[str, int] | None = None,
) -> Filled:
    """What is stored through the pointer that the call at place `call` returns; `given` says where
    it is then, and how far into the object, where that is not its beginning."""
    walk = (way or Walk)(code, known, called, given)
    walk.follow(call + 1)
    found = [
        Store(w.offset, w.size, w.kind, U64(w.value), w.certain, w.doubtful)
        for w in walk.written.values()
        if w.kind in ("value", "self")
    ]
    told = sorted(found, key=lambda s: (_dull(s), s.offset))[:_MOST_STORES]
    other = {w.offset // 8 for w in walk.written.values()} - {s.offset // 8 for s in found}
    words = tuple(sorted(w for w in other if w < _MOST_WORDS))
    kept = tuple(sorted(walk.kept))
    return Filled(tuple(sorted(told, key=lambda s: s.offset)), words, kept, walk.returned)


def kept_after(
    known: Constants, call: int, called: Called, way: type[Walk], inside: int
) -> tuple[frozenset[Kept], int | None]:
    """Where the pointer that the call returns is kept, and how far into the object what the
    function returns leads; the call's own leads `inside` bytes into it."""
    walk = way(known.code, known, called, {way.result: inside})
    walk.follow(call + 1, writes=False)
    return frozenset(walk.kept), walk.returned


def _dull(store: Store) -> int:
    if store.kind == "self" or store.value >= _TELLING:
        return 0
    return 1 if store.value else 2


class Walk:
    """One way through the code, with what is known of the pointer on it; x86-64's."""

    result = "rax"
    """Where functions return."""
    everywhere = False
    """Whether it is looked at what other ways write, of which none is counted."""

    def __init__(
        self,
        code: Code,
        known: Constants,
        called: Called | None = None,
        given: Mapping[str, int] | None = None,
        depth: int = 1,
    ) -> None:
        """`given` are the registers that hold the pointer at first, else it is what was returned;
        `depth` is how many calls deep the next function would be."""
        self._code, self._known, self._called, self._depth = code, known, called, depth
        self._pointers: dict[str, int] = {self.result: 0} if given is None else dict(given)
        """Registers and stack slots that hold the pointer, and how far into the object."""
        self._certain = True
        self.written: dict[int, Written] = {}
        self.passed: list[tuple[int, int, int, int]] = []
        """Functions that get the pointer: (call, function, argument, how far into the object)."""
        self.kept: set[Kept] = set()
        self.returned: int | None = None
        self._framed = framed(code)
        self._forks: list[tuple[int, dict[str, int]]] = []
        self._writes = True
        """What it writes is asked about."""

    def follow(self, i: int | None, writes: bool = True) -> None:
        """Go on from the instruction at place `i`; without `writes` only what is kept and returned
        is asked about."""
        seen: set[int] = set()
        self._writes = writes
        self._along(i, seen)
        # What is written elsewhere may be or may not; where the address is kept is as good there.
        written, passed = dict(self.written), list(self.passed)
        self._writes = self.everywhere
        for place, pointers in self._forks:  # which grow meanwhile
            self._pointers = pointers
            self._along(place, seen)
        self.written, self.passed = written, passed

    def _along(self, i: int | None, seen: set[int]) -> None:
        length = len(self._code.all)
        while i is not None and i < length:
            # Most instructions are about something else.
            end = min(length, i + _MOST_INSTRUCTIONS)
            stop = self._code.about(i, end, self._pointers) if self._pointers else i
            for place in range(i, stop + (stop < length)):
                if place in seen or len(seen) >= _MOST_INSTRUCTIONS:
                    return
                seen.add(place)
            if not self._pointers:
                return
            i = self._step(stop) if stop < end else stop

    def _fork(self, one: Instruction) -> None:
        """Another way that leads from there; no more are followed than so many."""
        if len(self._forks) >= _MOST_FORKS:
            return
        inside = self._code.at(one.target or 0)
        if inside is not None:
            self._forks.append((inside, dict(self._pointers)))

    def _step(self, i: int) -> int | None:
        one = self._code.all[i]
        if one.jumps:
            return self._jump(i, one) if one.unconditional else self._branch(i, one)
        if one.ends_block:
            if one.mnemonic.endswith("ret"):
                self._return()
            return None
        if one.mnemonic in _CALLS:
            self._call(i, one)
        elif one.mnemonic == "push":
            self._push(i, one)
        self._keep(one)
        if self._writes:
            self._store(i, one)
        self._move(i, one)
        return i + 1

    def _jump(self, i: int, one: Instruction) -> int | None:
        inside = self._code.at(one.target or 0)
        if self._called is not None and one.target and self._called.returns(one.target):
            self._return()
        elif inside is None:
            self._call(i, one)  # the last thing that the function does
        return inside

    def _return(self) -> None:
        if self.returned is None:
            self.returned = self._pointers.get(self.result)

    def _branch(self, i: int, one: Instruction) -> int | None:
        before = self._code.all[i - 1]
        parts = before.parts
        asked = REGISTERS.get(parts[0], ("", 0))[0] if parts else ""
        if before.mnemonic == "test" and len(set(parts)) == 1 and asked in self._pointers:
            return i + 1 if one.mnemonic in _EQUAL else self._code.at(one.target or 0)
        if before.mnemonic == "cmp" and asked in self._pointers:
            return i + 1  # whether it is an ERR_PTR()
        self._certain = False
        self._fork(one)
        return i + 1

    def _call(self, i: int, one: Instruction) -> None:
        """A function that gets the pointer, by whatever argument."""
        if one.target is None:
            return
        arguments = self._code.isa.arguments
        for number, register in enumerate(arguments):
            if register in self._pointers:
                where = self._pointers[register]
                self.passed.append((one.address, one.target, number, where))
        if self._called is None:
            return
        if self._called.copies(one.target):
            into, source, size = arguments[:3]
            if self._writes:
                self._copied(i, self._pointers.get(into), source, size, 1)
            return
        for number, register in enumerate(arguments):
            at = self._pointers.get(register)
            if at is None:
                continue
            if self._writes:
                for written in self._called.written(one.target, number, self._depth):
                    self._by_callee(i, at, written)
            for kept in self._called.kept(one.target, number, self._depth):
                self.kept.add(kept._replace(inside=kept.inside + at))

    def _push(self, i: int, one: Instruction) -> None:
        """An argument of a call that has more than there are registers for."""
        at = self._pointers.get(one.operands)
        found = None if at is None or self._called is None else pushed(self._code, i)
        if at is None or self._called is None or found is None:
            return
        for kept in self._called.kept(*found, self._depth):
            self.kept.add(kept._replace(inside=kept.inside + at))

    def _keep(self, one: Instruction) -> None:
        """A store of the pointer into memory that is not its own."""
        found = kept_by(one, self._pointers, self._framed)
        if found is not None:
            self.kept.add(found)

    def _by_callee(self, i: int, at: int, written: Written) -> None:
        offset, size = at + written.offset, written.size
        certain, doubtful = self._certain and written.certain, not written.certain
        if written.kind == "self":
            self._put(offset, size, "self", at + written.value, certain, doubtful)
        elif written.kind == "argument":
            register = self._code.isa.arguments[written.value]
            self._stored(i, offset, size, register, register, certain, doubtful)
        else:
            doubtful |= written.doubtful
            self._put(offset, size, written.kind, written.value, certain, doubtful)

    def _copied(self, i: int, into: int | None, source: str, count: str, each: int) -> None:
        """A template that is copied into the object."""
        if into is None or self._called is None:
            return
        places, counts = self._known.before(i, source), self._known.before(i, count)
        if len(places) != 1 or len(counts) != 1:
            return
        (place,), (length,) = places, counts
        if place.what is not What.CONSTANT or length.what is not What.CONSTANT:
            return
        for word in range(min(length.number * each // 8, _MOST_COPIED)):
            value = self._called.peek(place.number + 8 * word)
            if value is not None:
                self._put(into + 8 * word, 8, "value", value, self._certain, True)

    def _move(self, i: int, one: Instruction) -> None:
        """Where the pointer is after the instruction."""
        after, name = None, ""
        if one.mnemonic in ("mov", "lea", "add", "sub", "or"):
            into, what = one.parts
            name = _place(into)
            if one.mnemonic == "mov":
                after = self._pointers.get(_place(what))
            elif one.mnemonic == "lea":
                after = self._inside(what)
            elif one.mnemonic == "or":
                after = tagged(self._pointers.get(name), what)
            elif name in self._pointers and (step := stepped(one)) is not None:
                after = self._pointers[name] + step[1]
        for written in self._code.writes(i):
            self._pointers.pop(written, None)
        if name and after is not None:
            self._pointers[name] = after

    def _inside(self, operand: str) -> int | None:
        """How far into the object a memory operand is; None where it is not in it."""
        memory = MEMORY.fullmatch(operand)
        if memory is None:
            return None
        base, sign, number = [*memory[2].split(" "), "+", "0"][:3]
        if base not in self._pointers or memory[2].count(" ") > 2 or not number[0].isdigit():
            return None
        return self._pointers[base] + int(number, 16) * (-1 if sign == "-" else 1)

    def _store(self, i: int, one: Instruction) -> None:
        if one.mnemonic in _COPY:
            self._copied(i, self._pointers.get("rdi"), "rsi", "rcx", _COPY[one.mnemonic])
        if one.mnemonic not in ("mov", "movabs") or "[" not in one.operands:
            return
        parts = one.parts
        if len(parts) != 2 or "[" not in parts[0]:
            return
        offset = self._inside(parts[0])
        if offset is not None:
            size = width(parts[0]) // 8
            self._stored(i, offset, size, _place(parts[1]), parts[1], self._certain)

    def _stored(
        self,
        i: int,
        offset: int,
        size: int,
        place: str,
        operand: str,
        certain: bool,
        doubtful: bool = False,
    ) -> None:
        """A store of a register, or of another operand, of the instruction at place `i`."""
        if place in self._pointers and size == 8:
            self._put(offset, size, "self", self._pointers[place], certain, doubtful)
            return
        value = self._known.operand(i, operand)
        kind: _Kind = "unknown"
        number, word = 0, None
        if value.what is What.CONSTANT:
            kind, number = "value", value.number & (1 << 8 * size) - 1
        elif value.what is What.ARGUMENT:
            kind, number = "argument", value.number
        elif value.what is What.LOAD and size == 8 and self._called is not None:
            word = self._called.peek(value.number)
        if word is not None:
            kind, number, doubtful = "value", word, True
        self._put(offset, size, kind, number, certain, doubtful)

    def _put(
        self,
        offset: int,
        size: int,
        kind: _Kind,
        value: int,
        certain: bool,
        doubtful: bool = False,
    ) -> None:
        if offset >= 0:
            self.written.pop(offset, None)
            self.written[offset] = Written(offset, size, kind, value, certain, doubtful)


def _place(operand: str) -> str:
    """A whole register, or a stack slot; "" for anything else."""
    name, bits = REGISTERS.get(operand, ("", 0))
    return name if bits == 64 else slot(operand) or ""

"""What a register holds at a place of a function, as far as constants go: reaching definitions.

From the place backwards over every way that leads there, to the instructions that set the register,
and from those on to what they were set from. Where ways meet, all their values are possible; what
is not known is one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import product
from typing import NamedTuple

from crashext.kernel.origin.code import REGISTERS, Code
from crashext.kernel.origin.instruction import Instruction, slot

_WORD = (1 << 64) - 1
_MOST_VALUES = 16
_MOST_STEPS = 4000  # instructions that one question may look at
_DEEPEST = 12
_TERM = re.compile(r"([+-]?)\s*(?:([a-z0-9]+)\*(\d)|(0x[0-9a-f]+|\d+)|([a-z][a-z0-9]*))", re.ASCII)
MEMORY = re.compile(r"(?:(\w+) ptr )?\[(.*)\]", re.ASCII)
_BITS = {"byte": 8, "word": 16, "dword": 32, "qword": 64}


class What(Enum):
    CONSTANT = "constant"
    LOAD = "load"
    """What memory holds at an address that is constant."""
    ARGUMENT = "argument"
    """Of the function, by number: its caller decides."""
    RESULT = "result"
    """What the call at an address returned."""
    UNKNOWN = "unknown"


class Value(NamedTuple):
    what: What
    number: int = 0


Values = frozenset[Value]
UNKNOWN = Value(What.UNKNOWN)
NOBODY_KNOWS: Values = frozenset((UNKNOWN,))

_MAY_BE_NUMBERS = (What.CONSTANT, What.LOAD)
_MAY_BE_RESULTS = (What.CONSTANT, What.RESULT)
_MAY_BE_STORED = (What.CONSTANT, What.LOAD, What.ARGUMENT)

Peek = Callable[[int], int | None]
"""The word at an address of the dump; None where it cannot be read."""


class _NotConstant(Exception):
    """Of numbers that all have to be known, one is not."""


class Constants:
    """Of one function; `_set_by` and `_operand` are x86-64's."""

    registers = REGISTERS
    """Of this architecture: name -> (64-bit register, bits)."""

    def __init__(self, code: Code, peek: Peek) -> None:
        self.code, self._peek = code, peek
        self._steps = 0
        self._allowed: tuple[What, ...] = ()
        """Kinds of values, where anything else ends the search."""
        self._through = False
        """Variables have the values that the dump has."""

    def before(self, i: int, register: str) -> Values:
        """What a 64-bit register may hold when control comes to the instruction at place `i`."""
        self._steps = _MOST_STEPS
        return self._values(register, i, 0)

    def operand(self, i: int, operand: str) -> Value:
        """What an operand of the instruction at place `i` is, where it is one thing."""
        found = self._all_of(_MAY_BE_STORED, lambda: self._operand(self.code.all[i], operand, i, 0))
        return next(iter(found)) if len(found) == 1 else UNKNOWN

    def numbers(self, i: int, register: str) -> tuple[int, ...]:
        """All numbers that it may hold then; empty where it may hold what is not known.

        Sizes that are computed are the most of a kernel's: the first unknown ends the search.
        """
        found = self._all_of(_MAY_BE_NUMBERS, lambda: self._values(register, i, 0))
        if any(v.what is not What.CONSTANT for v in found):
            return ()
        return tuple(sorted({v.number for v in found}))

    def results(self, i: int, register: str) -> Values:
        """What functions returned, or constants, that it may hold then; nothing where it may hold
        anything else."""
        return self._all_of(_MAY_BE_RESULTS, lambda: self._values(register, i, 0))

    def set_at(self, i: int, register: str) -> list[int | None]:
        """Places that set it last on some way to the place `i`; None where the caller did."""
        self._steps = _MOST_STEPS
        found = list(self._definitions(register, i))
        return found if self._steps > 0 else [*found, None]

    def _all_of(self, kinds: tuple[What, ...], ask: Callable[[], Values]) -> Values:
        """The answer; nothing where it has anything but `kinds`: then the search ends at once."""
        self._steps, self._allowed = _MOST_STEPS, kinds
        try:
            return ask()
        except _NotConstant:
            return frozenset()
        finally:
            self._allowed = ()

    def now(self, i: int, register: str) -> tuple[int, ...]:
        """The same, where variables are what they are in the dump."""
        self._through = True
        try:
            return self.numbers(i, register)
        finally:
            self._through = False

    def _values(self, name: str, i: int, depth: int) -> Values:
        if depth > _DEEPEST:
            return self._nobody_knows()
        found: set[Value] = set()
        for definition in self._definitions(name, i):
            if definition is None:
                passed = self.code.isa.arguments
                known = name in passed
                found.add(Value(What.ARGUMENT, passed.index(name)) if known else UNKNOWN)
            else:
                found |= self._set_by(self.code.all[definition], name, definition, depth + 1)
            if len(found) > _MOST_VALUES:
                return self._nobody_knows()
            # What memory holds may be looked up yet; nothing makes a number of anything else.
            if self._allowed and any(v.what not in self._allowed for v in found):
                raise _NotConstant
        return frozenset(found) if found and self._steps > 0 else self._nobody_knows()

    def _nobody_knows(self) -> Values:
        if self._allowed:
            raise _NotConstant
        return NOBODY_KNOWS

    def _definitions(self, name: str, i: int) -> Iterator[int | None]:
        """Places that set it last on some way here; None: the function's caller did."""
        if i == 0:
            yield None
        for length, definition, entered in self.code.set_last(name, i, _MOST_STEPS):
            if self._steps <= 0:
                return
            self._steps -= length
            if definition is not None:
                yield definition
            if entered:
                yield None

    def _set_by(self, instruction: Instruction, name: str, i: int, depth: int) -> Values:
        parts = instruction.parts
        if instruction.mnemonic == "call" and name == "rax":
            return frozenset((Value(What.RESULT, instruction.address),))
        if not parts or (parts[0] not in REGISTERS and slot(parts[0]) != name):
            return NOBODY_KNOWS
        operation = instruction.mnemonic
        if operation.startswith("set"):
            return frozenset((Value(What.CONSTANT, 0), Value(What.CONSTANT, 1)))
        bits = width(parts[0])
        if bits < 32 or REGISTERS.get(parts[0], (name, 0))[0] != name:
            return NOBODY_KNOWS
        if operation.startswith("cmov"):
            here = self._values(name, i, depth)
            return cut(here | self._operand(instruction, parts[1], i, depth), bits)
        if operation in ("mov", "movabs", "movzx", "movsxd", "movsx"):
            return self._moved(instruction, i, depth, bits)
        if operation == "lea":
            return cut(self._address(instruction, parts[1], i, depth), bits)
        return cut(self._computed(instruction, i, depth, bits), bits)

    def _moved(self, instruction: Instruction, i: int, depth: int, bits: int) -> Values:
        source = instruction.parts[1]
        values = self._operand(instruction, source, i, depth)
        narrow = width(source)
        if instruction.mnemonic in ("mov", "movabs"):
            return cut(values, bits)
        if any(v.what is not What.CONSTANT for v in values):
            return NOBODY_KNOWS
        if instruction.mnemonic == "movzx":
            return cut(values, narrow)
        sign = 1 << (narrow - 1)
        return constants({((v.number & ((sign << 1) - 1)) ^ sign) - sign for v in values}, bits)

    def _computed(self, instruction: Instruction, i: int, depth: int, bits: int) -> Values:
        operation, parts = instruction.mnemonic, instruction.parts
        same = len(parts) == 2 and parts[0] == parts[1]
        if same and operation in ("xor", "sub"):
            return constants({0}, bits)
        if same and operation == "sbb":
            return constants({0, _WORD}, bits)
        one = self._operand(instruction, parts[0], i, depth)
        if operation in _UNARY and len(parts) == 1:
            return combine(lambda a, _: _UNARY[operation](a), one, constants({0}, 64), bits)
        if operation == "imul" and len(parts) == 3:
            one, parts = self._operand(instruction, parts[1], i, depth), parts[1:]
        if operation not in _BINARY or len(parts) != 2:
            return NOBODY_KNOWS
        two = self._operand(instruction, parts[1], i, depth)
        return combine(_BINARY[operation], one, two, bits)

    def _operand(self, instruction: Instruction, operand: str, i: int, depth: int) -> Values:
        if operand in REGISTERS:
            name, bits = REGISTERS[operand]
            return cut(self._values(name, i, depth), bits)
        if "[" not in operand:
            number = _number(operand)
            return NOBODY_KNOWS if number is None else constants({number}, 64)
        on_stack = slot(operand)
        if on_stack is not None:
            return cut(self._values(on_stack, i, depth), width(operand))
        places = self._address(instruction, operand, i, depth)
        return self._load(places, width(operand))

    def _load(self, places: Values, bits: int) -> Values:
        """What memory holds at the addresses `places`."""
        if bits not in (32, 64) or any(v.what is not What.CONSTANT for v in places):
            return NOBODY_KNOWS
        loads = frozenset(Value(What.LOAD, v.number) for v in places)
        if self._through:
            return cut(self._resolved(loads), bits)
        return loads if bits == 64 else NOBODY_KNOWS

    def _address(self, instruction: Instruction, operand: str, i: int, depth: int) -> Values:
        """What a memory operand's address may be."""
        memory = MEMORY.fullmatch(operand)
        if memory is None:  # of a segment: per-CPU
            return NOBODY_KNOWS
        total = frozenset((Value(What.CONSTANT, 0),))
        for sign, index, scale, number, register in _TERM.findall(memory[2]):
            if number:
                term = constants({-int(number, 16) if sign == "-" else int(number, 16)}, 64)
            elif register == "rip":
                term = constants({instruction.end}, 64)
            else:
                name = REGISTERS.get(index or register)
                if name is None or name[0] == "rsp":
                    return NOBODY_KNOWS
                factor = int(scale or 1)
                term = self._values(name[0], i, depth)
                term = self._resolved(term)
                term = combine(lambda a, b: a * b, term, constants({factor}, 64), 64)
            total = combine(lambda a, b: a + b, total, term, 64)
        return total

    def _resolved(self, values: Values) -> Values:
        """Loads replaced by what the dump holds there: a pointer that is followed further."""
        found = set()
        for value in values:
            if value.what is What.LOAD:
                word = self._peek(value.number)
                value = UNKNOWN if word is None else Value(What.CONSTANT, word)
            found.add(value)
        return frozenset(found)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << (b & 63),
    "shr": lambda a, b: a >> (b & 63),
    "imul": lambda a, b: a * b,
}
_UNARY: dict[str, Callable[[int], int]] = {
    "inc": lambda a: a + 1,
    "dec": lambda a: a - 1,
    "neg": lambda a: -a,
    "not": lambda a: ~a,
}


def combine(function: Callable[[int, int], int], one: Values, two: Values, bits: int) -> Values:
    """What comes of every pair of two values, in so many bits."""
    pairs = list(product(one, two))
    if len(pairs) > _MOST_VALUES:
        return NOBODY_KNOWS
    if any(v.what is not What.CONSTANT for pair in pairs for v in pair):
        return NOBODY_KNOWS
    return constants({function(a.number, b.number) for a, b in pairs}, bits)


def constants(numbers: set[int], bits: int) -> Values:
    """Numbers, in so many bits."""
    mask = (1 << bits) - 1
    return frozenset(Value(What.CONSTANT, n & mask) for n in numbers)


def cut(values: Values, bits: int) -> Values:
    """The low bits of values; of what is no constant only where that says the same."""
    if bits == 64:
        return values
    mask = (1 << bits) - 1
    return frozenset(
        v._replace(number=v.number & mask)
        if v.what is What.CONSTANT
        else v
        if v.what is What.ARGUMENT and bits == 32
        else UNKNOWN
        for v in values
    )


def width(operand: str) -> int:
    """Bits of a register or of a memory operand."""
    if operand in REGISTERS:
        return REGISTERS[operand][1]
    return _BITS.get(operand.partition(" ")[0], 64)


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None

"""arm64's instructions as `Code` and `Constants` need them: what they change and compute.

Slots of the stack have names of their own, ``[sp+0x10]``, because one instruction may fill two.
Source: Arm Architecture Reference Manual for A-profile, as capstone spells it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import capstone

from crashext.kernel.origin.code import Isa
from crashext.kernel.origin.constants import (
    NOBODY_KNOWS,
    Constants,
    Value,
    Values,
    What,
    combine,
    constants,
    cut,
)
from crashext.kernel.origin.instruction import Instruction

ARGUMENTS = tuple(f"x{n}" for n in range(8))
_SCRATCH = frozenset((*(f"x{n}" for n in range(18)), "x30"))
REGISTERS = {
    **{f"x{n}": (f"x{n}", 64) for n in range(31)},
    **{f"w{n}": (f"x{n}", 32) for n in range(31)},
    "sp": ("sp", 64),
    "wsp": ("sp", 32),
}
_ZERO = {"xzr": 64, "wzr": 32}
_WRITES_NOTHING = frozenset(
    (
        "cmp",
        "cmn",
        "tst",
        "ccmp",
        "ccmn",
        "nop",
        "hint",
        "dmb",
        "dsb",
        "isb",
        "prfm",
        "msr",
        "brk",
        "b",
        "br",
        "ret",
        "cbz",
        "cbnz",
        "tbz",
        "tbnz",
        "paciasp",
        "autiasp",
        "bti",
        "yield",
        "sev",
    )
)
_STORES = {
    **dict.fromkeys(("str", "stur", "stlr", "stp"), 0),
    **dict.fromkeys(("strb", "sturb", "stlrb"), 8),
    **dict.fromkeys(("strh", "sturh", "stlrh"), 16),
}
"""Bits that a store takes of its register; 0: all of it."""
_LOADS = ("ldr", "ldur", "ldar", "ldp")
_MEMORY = re.compile(r"\[(\w+)(?:, #(-?(?:0x)?[0-9a-f]+))?\](!?)", re.ASCII)
_SHIFTED = re.compile(r"(lsl|lsr|uxtw|sxtw)(?: #(\w+))?", re.ASCII)
_MASK = (1 << 64) - 1


class Memory(NamedTuple):
    """A memory operand without an index."""

    base: str
    offset: int
    before: bool
    """The base is moved by the offset first, and stays so."""


def memory(operand: str) -> Memory | None:
    """``[x0, #8]``; None where it is none, or one with an index."""
    found = _MEMORY.fullmatch(operand)
    if found is None or found[1] not in REGISTERS:
        return None
    return Memory(found[1], int(found[2] or "0", 0), bool(found[3]))


def stored(instruction: Instruction) -> list[tuple[str, int, Memory]]:
    """(register, bits, where) of each register that an instruction stores."""
    parts, name = instruction.parts, instruction.mnemonic
    count = 2 if name == "stp" else 1
    if name not in _STORES or len(parts) < count + 1:
        return []
    where = memory(parts[count])
    if where is None:
        return []
    bits = _STORES[name] or width(parts[0])
    return [
        (register, bits, where._replace(offset=where.offset + i * bits // 8))
        for i, register in enumerate(parts[:count])
    ]


def width(operand: str) -> int:
    """Bits of a register."""
    return _ZERO.get(operand) or REGISTERS.get(operand, ("", 64))[1]


def _slot(where: Memory) -> str:
    return f"[sp+{where.offset:#x}]"


def _writes(instruction: Instruction) -> frozenset[str]:
    name, parts = instruction.mnemonic, instruction.parts
    if name in ("bl", "blr"):
        return _SCRATCH
    if not parts or name in _WRITES_NOTHING or name.startswith("b."):
        return frozenset()
    written = set()
    for i, part in enumerate(parts):
        if part.startswith("["):
            found = _MEMORY.fullmatch(part)
            if found is not None and (found[3] or i + 1 < len(parts)):  # the base moves
                written.add(REGISTERS.get(found[1], ("", 0))[0])
    if name in _STORES:
        slots = {_slot(where) for _, _, where in stored(instruction) if where.base == "sp"}
        return frozenset(written | slots)
    if not any("[" in part for part in parts):
        parts = parts[:1]
    # Of what touches memory otherwise (loads, exclusives, atomics) every register may be changed.
    return frozenset(written | {REGISTERS[part][0] for part in parts if part in REGISTERS})


ISA = Isa(
    (capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN),
    ARGUMENTS,
    "sp",
    _writes,
    "bcture",
    REGISTERS,
)


class Arm64Constants(Constants):
    """The same search, in another language."""

    registers = REGISTERS

    def _set_by(self, instruction: Instruction, name: str, i: int, depth: int) -> Values:
        parts, operation = instruction.parts, instruction.mnemonic
        if operation == "bl" and name == "x0":
            return frozenset((Value(What.RESULT, instruction.address),))
        for register, bits, where in stored(instruction):
            if where.base == "sp" and _slot(where) == name:
                return cut(self._operand(instruction, register, i, depth), bits)
        if not parts or REGISTERS.get(parts[0], ("", 0))[0] != name:
            second = operation == "ldp" and len(parts) > 2 and REGISTERS.get(parts[1], ("",))[0]
            if second != name:
                return NOBODY_KNOWS
        bits = width(parts[0])
        if operation in _LOADS:
            return cut(self._loaded(instruction, name, i, depth), bits)
        return cut(self._computed(instruction, i, depth, bits), bits)

    def _loaded(self, instruction: Instruction, name: str, i: int, depth: int) -> Values:
        parts = instruction.parts
        bits, second = width(parts[0]), 0
        if instruction.mnemonic == "ldp":
            second = bits // 8 if REGISTERS[parts[0]][0] != name else 0
            parts = parts[1:]
        if parts[1].startswith("#"):  # from beside the code
            places = self._operand(instruction, parts[1], i, depth)
        else:
            where = memory(parts[1])
            if where is None:
                return NOBODY_KNOWS
            where = where._replace(offset=where.offset + second)
            if where.base == "sp":
                return self._values(_slot(where), i, depth)
            base = self._resolved(self._values(REGISTERS[where.base][0], i, depth))
            places = combine(lambda a, b: a + b, base, constants({where.offset}, 64), 64)
        return self._load(places, bits)

    def _computed(self, instruction: Instruction, i: int, depth: int, bits: int) -> Values:
        operation, parts = instruction.mnemonic, instruction.parts

        def operand(number: int) -> Values:
            return self._operand(instruction, parts[number], i, depth)

        if operation in ("mov", "adr", "adrp", "uxtw") and len(parts) == 2:
            return cut(operand(1), 32) if operation == "uxtw" else operand(1)
        if operation == "movk":
            shift = _shift(parts[2]) if len(parts) > 2 else 0
            part = combine(lambda a, b: a << b, operand(1), constants({shift or 0}, 64), 64)
            kept = ~(0xFFFF << (shift or 0))
            return combine(lambda a, b: a & kept | b, operand(0), part, bits)
        if operation in ("cset", "csetm"):
            return constants({0, 1 if operation == "cset" else _MASK}, bits)
        if operation in _CHOICES:  # of two registers, or of one and what is made of it
            other = combine(_CHOICES[operation], operand(-2), constants({0}, 64), bits)
            return operand(1) | (operand(2) if operation == "csel" else other)
        if operation in _UNARY and len(parts) == 2:
            return combine(_UNARY[operation], operand(1), constants({0}, 64), bits)
        if operation in _BINARY and len(parts) in (3, 4):
            two = operand(2) if len(parts) == 3 else self._shifted(instruction, i, depth)
            return combine(_BINARY[operation], operand(1), two, bits)
        if operation in _FIELDS and len(parts) == 4:
            low, count = (int(part.removeprefix("#"), 0) for part in parts[2:])
            field = _FIELDS[operation]
            return combine(lambda a, _: field(a, low, count), operand(1), constants({0}, 64), bits)
        return NOBODY_KNOWS

    def _shifted(self, instruction: Instruction, i: int, depth: int) -> Values:
        """The last register of an instruction that shifts it first."""
        found = _SHIFTED.fullmatch(instruction.parts[3])
        if found is None:
            return NOBODY_KNOWS
        value = self._operand(instruction, instruction.parts[2], i, depth)
        amount = constants({int(found[2] or "0", 0)}, 64)
        if found[1] == "sxtw":
            value = combine(lambda a, _: _signed(a), value, constants({0}, 64), 64)
        if found[1] == "lsr":
            return combine(lambda a, b: a >> b, value, amount, 64)
        return combine(lambda a, b: a << b, value, amount, 64)

    def _operand(self, instruction: Instruction, operand: str, i: int, depth: int) -> Values:
        if operand in _ZERO:
            return constants({0}, 64)
        if operand in REGISTERS:
            name, bits = REGISTERS[operand]
            return NOBODY_KNOWS if name == "sp" else cut(self._values(name, i, depth), bits)
        if operand.startswith("#"):
            try:
                return constants({int(operand[1:], 0)}, 64)
            except ValueError:
                return NOBODY_KNOWS
        return NOBODY_KNOWS


def _shift(part: str) -> int | None:
    found = _SHIFTED.fullmatch(part)
    return None if found is None else int(found[2] or "0", 0)


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "ands": lambda a, b: a & b,
    "orr": lambda a, b: a | b,
    "eor": lambda a, b: a ^ b,
    "bic": lambda a, b: a & ~b,
    "orn": lambda a, b: a | ~b,
    "lsl": lambda a, b: a << (b & 63),
    "lsr": lambda a, b: a >> (b & 63),
    "mul": lambda a, b: a * b,
    "adds": lambda a, b: a + b,
    "subs": lambda a, b: a - b,
}
_UNARY: dict[str, Callable[[int, int], int]] = {
    "neg": lambda a, _: -a,
    "mvn": lambda a, _: ~a,
    "sxtw": lambda a, _: _signed(a),
}
_CHOICES: dict[str, Callable[[int, int], int]] = {
    "csel": lambda a, _: a,
    "csinc": lambda a, _: a + 1,
    "csinv": lambda a, _: ~a,
    "csneg": lambda a, _: -a,
    "cinc": lambda a, _: a + 1,
    "cinv": lambda a, _: ~a,
    "cneg": lambda a, _: -a,
}
_FIELDS: dict[str, Callable[[int, int, int], int]] = {
    "ubfx": lambda a, low, count: a >> low & (1 << count) - 1,
    "ubfiz": lambda a, low, count: (a & (1 << count) - 1) << low,
}

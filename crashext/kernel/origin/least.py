"""The least that a size can be which is worked out at run time: struct_size(), an array and a head.

A sum is at least the numbers that go into it: what is not known counts as 0, and is taken to be a
count or a size, which do not go below it. All ones, which a product becomes that overflows, never
gets memory, so it is passed over.
"""

from __future__ import annotations

import re

from crashext.kernel.origin.constants import MEMORY, Constants
from crashext.kernel.origin.instruction import Instruction

_DEEPEST = 5
_MOST = 1 << 20
_NUMBER = re.compile(r"#?((?:0x[0-9a-f]+|\d+))", re.ASCII)
_INDEXED = re.compile(r"(?:\w+|\w+\*\d)(?: \+ \w+\*\d)?(?: \+ (0x[0-9a-f]+|\d+))?", re.ASCII)


def least(known: Constants, i: int, register: str) -> int:
    """The least that a 64-bit register may hold when control comes to the place `i`."""
    return _before(known, i, register, 0) or 0


def _before(known: Constants, i: int, register: str, depth: int) -> int | None:
    bounds = [_set_by(known, at, depth) for at in known.set_at(i, register)]
    return min((b for b in bounds if b is not None), default=None)


def _set_by(known: Constants, at: int | None, depth: int) -> int | None:
    """What an instruction sets it to at least; None for what is no size."""
    if at is None or depth > _DEEPEST:
        return 0
    one = known.code.all[at]
    name, parts = one.mnemonic, one.parts
    if name in ("mov", "movabs") and len(parts) == 2:
        return _of(known, at, parts[1], depth)
    if name.startswith("cmov"):
        either = [_of(known, at, part, depth) for part in parts]
        return min((b for b in either if b is not None), default=None)
    if name == "lea":
        return _indexed(one)
    if name == "add" and len(parts) in (2, 3):  # x86-64 adds to the first
        bounds = [_of(known, at, part, depth) for part in parts[-2:]]
        return sum(b for b in bounds if b is not None)
    return 0


def _of(known: Constants, at: int, operand: str, depth: int) -> int | None:
    name, bits = known.registers.get(operand, ("", 0))
    if bits >= 32:
        return _before(known, at, name, depth + 1)
    number = _NUMBER.fullmatch(operand)
    if number is None:
        return None if operand.lstrip("#").startswith("-") else 0
    value = int(number[1], 0)
    return value if value < _MOST else None


def _indexed(one: Instruction) -> int:
    """lea rdi, [rax*8 + 0x18]: a sum with a number."""
    memory = MEMORY.fullmatch(one.parts[1])
    found = None if memory is None else _INDEXED.fullmatch(memory[2])
    if found is None or not found[1] or memory is None or "rip" in memory[2]:
        return 0
    value = int(found[1], 0)
    return value if value < _MOST else 0

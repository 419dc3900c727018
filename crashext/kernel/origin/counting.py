"""Sizes that are worked out from a number which the object then holds: struct_size() of a table.

bucket_table_alloc(n) asks for 64 + 8 * n bytes and writes n into the object. Which objects may be
one is told by what they hold: the number has to give their own size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from crashext.kernel.origin.constants import MEMORY, Constants
from crashext.kernel.origin.instruction import Instruction
from crashext.kernel.origin.stores import Walk

_DEEPEST = 8
_QUESTIONS = 1000  # of one request: registers at joins of joins would be asked for without end
_MOST = 1 << 20
_LEAST_STEP = 2  # bytes; a number of bytes is in the objects' size itself
_NUMBER = re.compile(r"#?(-?(?:0x[0-9a-f]+|\d+))", re.ASCII)
_TERM = re.compile(r"([+-]?)\s*(?:([a-z0-9]+)\*(\d)|(0x[0-9a-f]+|\d+)|([a-z][a-z0-9]*))", re.ASCII)
_SHIFTED = re.compile(r"lsl #(\d+)", re.ASCII)
_MOVES = ("mov", "movabs", "movsxd", "movzx", "sxtw", "uxtw")
_SELECTS, _SHIFTS = ("csel", "csinv"), ("shl", "lsl")


@dataclass(frozen=True, slots=True)
class Counting:
    """What a place does with the number that it works its size out of."""

    base: int
    step: int
    """The size is `base` bytes and `step` for each."""
    offset: int
    """Where the object holds how many."""
    size: int
    """Bytes of that."""


class _Sum(NamedTuple):
    base: int
    step: int
    of: tuple[str, int] | None
    """What set the number, or a register that the caller did; None for none."""


class _Asked:
    """What sets registers, with each answer kept and not many questions."""

    def __init__(self, known: Constants) -> None:
        self.code, self.registers, self.set_at = known.code, known.registers, known.set_at
        self.told = dict[tuple[int, str], _Sum]()
        self.left = _QUESTIONS


def counting(known: Constants, call: int, register: str, walk: type[Walk]) -> Counting | None:
    """Of a request at the place `call`, whose size is in a register; None where it is no such sum,
    or the function is not seen to keep the number."""
    asked = _Asked(known)
    size = _sum(asked, call, register, 0)
    if size is None or size.of is None or not _LEAST_STEP <= size.step < _MOST:
        return None
    if not 0 < size.base < _MOST:
        return None  # nothing has room for the number before the first
    noting = _noting(walk)(known.code, known)
    noting.follow(call + 1)
    for i, offset, length, operand in noting.noted:
        name, bits = known.registers.get(operand, ("", 0))
        if bits < 32 or offset < 0:
            continue
        kept = _sum(asked, i, name, 0)
        if kept is not None and kept == _Sum(0, 1, size.of):
            return Counting(size.base, size.step, offset, length)
    return None


def _noting(walk: type[Walk]) -> Any:
    class Noting(walk):  # type: ignore[misc, valid-type]
        """One that remembers which registers are stored where."""

        everywhere = True

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.noted: list[tuple[int, int, int, str]] = []

        def _stored(
            self, i: int, offset: int, size: int, place: str, operand: str, *more: bool
        ) -> None:
            self.noted.append((i, offset, size, operand))
            super()._stored(i, offset, size, place, operand, *more)

    return Noting


def _sum(known: _Asked, i: int, register: str, depth: int) -> _Sum | None:
    """What a 64-bit register holds when control comes to the place `i`."""
    told = known.told.get((i, register))
    if told is not None or depth > _DEEPEST or known.left <= 0:
        return told
    known.left -= 1
    sums = set[_Sum]()
    for at in known.set_at(i, register):
        if at is None:
            sums.add(_Sum(0, 1, (register, -1)))
        else:
            sums |= set(_set_by(known, at, register, depth))
        if len(sums) > 1:
            return None
    found = next(iter(sums), None)
    if found is not None:  # else the depth may be why
        known.told[i, register] = found
    return found


def _set_by(known: _Asked, at: int, register: str, depth: int) -> Iterator[_Sum]:
    """What an instruction sets it to; nothing for all ones, which gets no memory."""
    one = known.code.all[at]
    name, parts = one.mnemonic, one.parts
    itself = _Sum(0, 1, ("", at))
    found: _Sum | None = None
    if name in _MOVES and len(parts) == 2:
        number = _NUMBER.fullmatch(parts[1])
        if number is not None:
            value = int(number[1], 0)
            if 0 <= value < _MOST:
                yield _Sum(value, 0, None)
            return
        found = _of(known, at, parts[1], depth)
    elif name.startswith("cmov") or name in _SELECTS:
        either = parts if name.startswith("cmov") else parts[1:3]
        ways = (_of(known, at, part, depth) for part in either)
        yield from (way for way in ways if way is not None)
        return
    elif name == "lea":
        found = _address(known, at, one, depth)
    elif name == "add":
        found = _added(known, at, parts, depth)
    elif name in (*_SHIFTS, "imul"):
        found = _times(known, at, name, parts, depth)
    yield itself if found is None else found


def _of(known: _Asked, at: int, operand: str, depth: int) -> _Sum | None:
    number = _NUMBER.fullmatch(operand)
    if number is not None:
        return _Sum(int(number[1], 0), 0, None)
    name, bits = known.registers.get(operand, ("", 0))
    return _sum(known, at, name, depth + 1) if bits >= 32 else None


def _plus(one: _Sum | None, two: _Sum | None) -> _Sum | None:
    if one is None or two is None or (one.of and two.of and one.of != two.of):
        return None
    return _Sum(one.base + two.base, one.step + two.step, one.of or two.of)


def _scaled(one: _Sum | None, factor: int) -> _Sum | None:
    return None if one is None else _Sum(one.base * factor, one.step * factor, one.of)


def _address(known: _Asked, at: int, one: Instruction, depth: int) -> _Sum | None:
    """lea rdi, [rax*8 + 0x18]"""
    memory = MEMORY.fullmatch(one.parts[1])
    if memory is None or "rip" in memory[2] or "rsp" in memory[2]:
        return None
    total: _Sum | None = _Sum(0, 0, None)
    for sign, index, scale, number, register in _TERM.findall(memory[2]):
        if number:
            value = int(number, 0)
            total = _plus(total, _Sum(-value if sign == "-" else value, 0, None))
        else:
            part = _of(known, at, index or register, depth)
            total = _plus(total, _scaled(part, int(scale or 1)))
    return total


def _added(known: _Asked, at: int, parts: tuple[str, ...], depth: int) -> _Sum | None:
    """add rdi, 0x40; add x0, x1, x2, lsl #3"""
    shifted = _SHIFTED.fullmatch(parts[3]) if len(parts) == 4 else None
    if len(parts) == 4 and shifted is None:
        return None
    one, two = parts[:2] if len(parts) == 2 else parts[1:3]  # x86-64 adds to the first
    last = _of(known, at, two, depth)
    if shifted is not None:
        last = _scaled(last, 1 << int(shifted[1]))
    return _plus(_of(known, at, one, depth), last)


def _times(known: _Asked, at: int, name: str, parts: tuple[str, ...], depth: int) -> _Sum | None:
    """shl rdi, 6; lsl x0, x1, #3; imul rdi, rsi, 0x38"""
    number = _NUMBER.fullmatch(parts[-1])
    if number is None or len(parts) not in (2, 3):
        return None
    factor = int(number[1], 0)
    if name in _SHIFTS:
        factor = 1 << (factor & 63)
    if not 0 <= factor < _MOST:
        return None
    return _scaled(_of(known, at, parts[-2], depth), factor)

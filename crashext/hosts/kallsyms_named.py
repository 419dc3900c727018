"""Addresses that the kernel's own code names: a second witness of where its variables are.

x86-64 only, where an instruction has the whole address: as a distance from where it ends, or as 32
bits. A symbol that a flipped bit moved is named by no instruction, or shares its address with
another, and a bit away from it something is named that has no symbol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Rows = NDArray[np.int64]

_WORD = 4
_MODRM, _RELATIVE = 0xC7, 0x05
"""Of the byte before a displacement: bits without the register, and the addressing by distance."""
_TWO_BYTES, _NARROW, _REX = 0x0F, 0x66, 0x40
_BITS = range(32)
_ALIGNED = 16


def _table(opcodes: dict[int, tuple[int, ...]]) -> Rows:
    found = np.zeros(256, np.int64)
    for size, codes in opcodes.items():
        found[list(codes)] = size
    return found


_BEHIND = _table({1: (0x80, 0x83, 0xC6, 0xC0, 0xC1, 0x6B), 4: (0x81, 0xC7, 0x69)})
_BEHIND_TWO = _table({1: (0xBA, 0xA4, 0xAC, 0xC2, 0xC4, 0xC5, 0xC6, 0x70, 0x71, 0x72, 0x73)})
"""Bytes of a number behind the displacement, by opcode, and by the second byte of an opcode."""
_TESTS = {0xF6: 1, 0xF7: 4}
"""The same of opcodes that have one for the first two of the registers' numbers only."""


def _immediate(text: Bytes, at: Rows) -> Rows:
    """How many bytes of a number stand behind each displacement."""
    opcode, register = text[at - 2], text[at - 1] >> 3 & 7
    size = _BEHIND[opcode]
    for code, width in _TESTS.items():
        size[(opcode == code) & (register < 2)] = width
    before, first = text[np.maximum(at - 3, 0)], text[np.maximum(at - 4, 0)]
    narrow = (before == _NARROW) | ((before & 0xF0 == _REX) & (first == _NARROW))
    size[(size == 4) & narrow] = 2
    return np.where(before == _TWO_BYTES, _BEHIND_TWO[opcode], size)


def named_in(text: Bytes, base: int, low: int, high: int) -> NDArray[np.uint32]:
    """Distances from `low` of what text at `base` names up to `high`, in no order."""
    span = np.uint32(high - low)
    found = []
    for first in range(_WORD):
        words = np.frombuffer(text[first : first + (len(text) - first) // _WORD * _WORD], "<u4")
        whole = words - np.uint32(low & 0xFFFFFFFF)
        found.append(whole[whole < span])
        start = base + first + _WORD - low & 0xFFFFFFFF
        ends = np.arange(start, start + _WORD * len(words), _WORD, dtype=np.int64)
        far = words + ends.astype(np.uint32)
        rows = np.flatnonzero(far < span)
        at = first + _WORD * rows
        rows, at = rows[at > 1], at[at > 1]
        relative = text[at - 1] & _MODRM == _RELATIVE
        rows, at = rows[relative], at[relative]
        found.append(far[rows] + _immediate(text, at).astype(np.uint32))
    return np.concatenate(found)


@runtime_checkable
class PlacingHost(Protocol):
    """A host whose symbols have no witness but the kernel's code."""

    def require_places(self) -> None:
        """Each variable that was asked for is where code names it, or may be; raises `HostError`.
        To be asked before an answer is given: it reads all text.
        """


@dataclass(frozen=True)
class Named:
    """What code names of the kernel's variables."""

    low: int
    high: int
    named: NDArray[np.uint32]
    """Distances from `low`, sorted."""

    def __contains__(self, address: int) -> bool:
        if not self.low <= address < self.high:
            return False
        at = int(np.searchsorted(self.named, np.uint32(address - self.low)))
        return at < len(self.named) and int(self.named[at]) == address - self.low

    def elsewhere(self, addresses: NDArray[np.uint64], address: int) -> int | None:
        """Where the variable at `address` may be meant to be, a bit away; None where it may well be
        right. `addresses` are those of all symbols, sorted.

        Code may name no more of a variable than a member: of 25,677 variables of 6.1 and 7.2 that
        code does not name, all of them whole, 761 have something a bit away that it does name.
        Where that `is_better_placed` (2 of them) it comes first.
        """
        first = int(np.searchsorted(addresses, np.uint64(address)))
        last = int(np.searchsorted(addresses, np.uint64(address), side="right"))
        if address in self and last - first == 1:
            return None
        below = int(addresses[first - 1]) if first else 0
        above = int(addresses[last]) if last < len(addresses) else self.high
        taken = addresses[max(first - 1, 0) : last + 1].tolist()
        # 7.x keeps distances from where they stand: a bit of one is added or taken away.
        others: Iterator[int] = (address + sign * (1 << bit) for bit in _BITS for sign in (1, -1))
        right = [a for a in others if below < a < above and a in self and a not in taken]
        return next((a for a in right if is_better_placed(a, address)), next(iter(right), None))


def is_better_placed(one: int, other: int) -> bool:
    """Whether a variable begins sooner at `one` than at `other`, which compilers align less than
    what is larger than a pointer.
    """
    return other % _ALIGNED != 0 and one & -one > other & -other

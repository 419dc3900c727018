"""One instruction in the words of capstone: what it is made of, and where control goes from it.

x86-64's and arm64's are told apart by their names, of which none means something else on the other.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_ENDS = frozenset(("jmp", "ret", "ud2", "int3", "b", "br", "brk", "udf", "eret", "retaa", "retab"))
_TESTS = frozenset(("cbz", "cbnz", "tbz", "tbnz"))
_OUTSIDE = re.compile(r", (?![^\[]*\])")  # commas that are not inside a memory operand
_HEX = re.compile(r"0x[0-9a-f]{1,16}", re.ASCII)
_DECIMAL = 9
_SLOT = re.compile(r"\[(?:rsp|rbp)(?: [+-] 0x[0-9a-f]+| [+-] \d)?\]", re.ASCII)


class Instruction(NamedTuple):
    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def end(self) -> int:
        return self.address + self.size

    @property
    def parts(self) -> tuple[str, ...]:
        """The operands one by one, destination first."""
        return _parts(self.operands)

    @property
    def target(self) -> int | None:
        """Of a direct jump or call; arm64's may test a register, which they name first."""
        return target(self.operands)

    @property
    def ends_block(self) -> bool:
        """Control does not come out at its end. WARN() goes on after its ud2 or brk, but nothing
        that anyone asks about is decided there."""
        return ends(self.mnemonic)

    @property
    def unconditional(self) -> bool:
        """A jump that is always taken."""
        return self.mnemonic in ("jmp", "b")

    @property
    def jumps(self) -> bool:
        """Control may go elsewhere from there, other than by a call."""
        return jumps(self.mnemonic)


@lru_cache(1 << 15)
def _parts(operands: str) -> tuple[str, ...]:
    if "[" in operands:
        return tuple(_OUTSIDE.split(operands))
    return tuple(operands.split(", ")) if operands else ()


def jumps(mnemonic: str) -> bool:
    """Whether control may go elsewhere from what is called so, other than by a call."""
    first = mnemonic[0]
    if first == "j":
        return True
    return first in "bct" and (mnemonic[:2] == "b." or mnemonic == "b" or mnemonic in _TESTS)


def target(operands: str) -> int | None:
    """Where a jump or a call with such operands leads."""
    last = operands.rpartition("#")[2]
    return int(last, 16) if _HEX.fullmatch(last) else None


def ends(mnemonic: str) -> bool:
    """Whether control does not come out at the end of what is called so."""
    return mnemonic in _ENDS or mnemonic.endswith(" ret")


def slot_at(base: str, offset: int) -> str:
    """How that of a base register is spelled: numbers up to nine are decimal."""
    return f"[{base} + {offset if offset <= _DECIMAL else hex(offset)}]"


def slot(operand: str) -> str | None:
    """``[rsp + 0x10]``: the stack slot that a memory operand is; None where it is none."""
    inner = operand[operand.find("[") :]
    return inner if _SLOT.fullmatch(inner) and "gs:" not in operand else None

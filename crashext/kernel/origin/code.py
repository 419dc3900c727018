"""One function, disassembled, and how control gets from one instruction to the next.

capstone's plain text of an instruction is enough here and three times as fast as its details; what
follows from an instruction is worked out only for those that somebody asks about. Text that makes
no sense (damaged, or data) costs this function. What x86-64's instructions change is here;
arm64's are in code_arm64.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, cached_property, lru_cache, partial
from typing import NamedTuple

import capstone

MOST_CODE = 1 << 17  # bytes of one function; larger ones are tables of code, or nonsense

_WIDE = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_SCRATCH = frozenset(("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"))


def _registers() -> dict[str, tuple[str, int]]:
    """Name -> (64-bit register, bits)."""
    found = {}
    for wide in _WIDE:
        found[wide] = (wide, 64)
        if wide[1:].isdigit():
            found |= {wide + s: (wide, bits) for s, bits in (("d", 32), ("w", 16), ("b", 8))}
        else:
            short = wide[1:]
            found |= {f"e{short}": (wide, 32), short: (wide, 16)}
            low = short[0] + "l" if short[1] == "x" else short + "l"
            found[low] = (wide, 8)
            if short[1] == "x":
                found[short[0] + "h"] = (wide, 8)
    return found


REGISTERS = _registers()

_READ_ONLY = frozenset(("cmp", "test", "bt", "nop", "ud2", "int3", "ret"))
_IMPLIED = {
    "mul": ("rax", "rdx"),
    "div": ("rax", "rdx"),
    "idiv": ("rax", "rdx"),
    "cdq": ("rdx",),
    "cqo": ("rdx",),
    "cdqe": ("rax",),
    "cwde": ("rax",),
    "cpuid": ("rax", "rbx", "rcx", "rdx"),
    "rdtsc": ("rax", "rdx"),
    "rdtscp": ("rax", "rdx", "rcx"),
    "rdmsr": ("rax", "rdx"),
    "syscall": ("rcx", "r11"),
}
_ENDS = frozenset(("jmp", "ret", "ud2", "int3", "b", "br", "brk", "udf", "eret", "retaa", "retab"))
_TESTS = frozenset(("cbz", "cbnz", "tbz", "tbnz"))
_OUTSIDE = re.compile(r", (?![^\[]*\])")  # commas that are not inside a memory operand
_HEX = re.compile(r"0x[0-9a-f]{1,16}", re.ASCII)
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
    def parts(self) -> list[str]:
        """The operands one by one, destination first."""
        if "[" in self.operands:
            return _OUTSIDE.split(self.operands)
        return self.operands.split(", ") if self.operands else []

    @property
    def target(self) -> int | None:
        """Of a direct jump or call; arm64's may test a register, which they name first."""
        return _target(self.operands)

    @property
    def ends_block(self) -> bool:
        """Control does not come out at its end. WARN() goes on after its ud2 or brk, but nothing
        that anyone asks about is decided there."""
        return _ends(self.mnemonic)

    @property
    def unconditional(self) -> bool:
        """A jump that is always taken."""
        return self.mnemonic in ("jmp", "b")

    @property
    def jumps(self) -> bool:
        """Control may go elsewhere from there, other than by a call."""
        return _jumps(self.mnemonic)


def _jumps(mnemonic: str) -> bool:
    first = mnemonic[0]
    if first == "j":
        return True
    return first in "bct" and (mnemonic[:2] == "b." or mnemonic == "b" or mnemonic in _TESTS)


def _target(operands: str) -> int | None:
    last = operands.rpartition("#")[2]
    return int(last, 16) if _HEX.fullmatch(last) else None


def _ends(mnemonic: str) -> bool:
    return mnemonic in _ENDS or mnemonic.endswith(" ret")


def slot(operand: str) -> str | None:
    """``[rsp + 0x10]``: the stack slot that a memory operand is; None where it is none."""
    inner = operand[operand.find("[") :]
    return inner if _SLOT.fullmatch(inner) and "gs:" not in operand else None


class Isa(NamedTuple):
    """What an architecture's instructions have in common."""

    machine: tuple[int, int]
    """capstone's architecture and mode."""
    arguments: tuple[str, ...]
    """Registers that arguments are passed in."""
    stack: str
    """The stack pointer."""
    writes: Callable[[Instruction], frozenset[str]]
    """64-bit registers, and slots of the stack, that an instruction changes."""
    jumps: str
    """First letters of instructions that jump."""


@cache
def _disassembler(machine: tuple[int, int]) -> capstone.Cs:
    return capstone.Cs(*machine)


class Code:
    """The instructions of one function, in order."""

    def __init__(self, data: bytes, address: int, isa: Isa | None = None) -> None:
        self.isa = isa or X86_64
        found = _disassembler(self.isa.machine).disasm_lite(data, address)
        # Half a million of them in one look through a kernel: not a line of Python each.
        self.all = list(map(_INSTRUCTION, found))
        self.written: dict[int, frozenset[str]] = {}

    def at(self, address: int) -> int | None:
        """The place of the instruction that begins at `address`."""
        return self._index.get(address)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {instruction[0]: i for i, instruction in enumerate(self.all)}

    @cached_property
    def jumps(self) -> dict[int, list[int]]:
        """Places that jump to a place."""
        found: dict[int, list[int]] = {}
        first = self.isa.jumps
        there = [(i, one) for i, one in enumerate(self.all) if one[2][0] in first]
        for i, (_, _, mnemonic, operands) in there:
            if _jumps(mnemonic):
                to = self._index.get(_target(operands) or 0)
                if to is not None:
                    found.setdefault(to, []).append(i)
        return found

    def falls(self, i: int) -> bool:
        """Whether control comes to a place from the one before it. With `jumps` that is all; what
        only a jump table or a patched branch leads to is come to from nowhere."""
        return i > 0 and not _ends(self.all[i - 1][2])

    def writes(self, i: int) -> frozenset[str]:
        """64-bit registers, and slots of the stack, that an instruction changes."""
        known = self.written.get(i)
        if known is None:
            _, _, mnemonic, operands = self.all[i]
            known = self.written[i] = _written_by(self.isa.writes, mnemonic, operands)
        return known


@lru_cache(1 << 16)
def _written_by(
    writes: Callable[[Instruction], frozenset[str]], mnemonic: str, operands: str
) -> frozenset[str]:
    """What every instruction of that text changes: most occur again and again."""
    return writes(Instruction(0, 0, mnemonic, operands))


_INSTRUCTION: Callable[[tuple[int, int, str, str]], Instruction] = partial(
    tuple.__new__, Instruction
)


def _writes(instruction: Instruction) -> frozenset[str]:
    name = instruction.mnemonic
    parts = instruction.parts
    if name == "call":
        return _SCRATCH
    if name.startswith("rep"):
        return frozenset(("rdi", "rsi", "rcx"))
    if name in _IMPLIED:
        return frozenset(_IMPLIED[name])
    if name == "imul" and len(parts) == 1:
        return frozenset(("rax", "rdx"))
    if name in ("push", "pop"):
        popped = REGISTERS.get(parts[0], ("", 0))[0] if name == "pop" else ""
        return frozenset(("rsp", popped))
    if not parts or name in _READ_ONLY or name.startswith("j"):
        return frozenset()
    written = [_written(parts[0])]
    if name in ("xchg", "xadd") or name.startswith("lock "):
        written += [_written(part) for part in parts[1:]]
    if "cmpxchg" in name:
        written.append("rax")
    return frozenset(written)


def _written(operand: str) -> str:
    if operand in REGISTERS:
        return REGISTERS[operand][0]
    return slot(operand) or ""


X86_64 = Isa((capstone.CS_ARCH_X86, capstone.CS_MODE_64), ARGUMENTS, "rsp", _writes, "j")

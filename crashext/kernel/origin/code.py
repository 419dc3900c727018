"""One function, disassembled, and how control gets from one instruction to the next.

capstone's plain text of an instruction is enough here and three times as fast as its details; what
follows from an instruction is worked out only for those that somebody asks about. Text that makes
no sense (damaged, or data) costs this function. What x86-64's instructions change is here;
arm64's are in code_arm64.py.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import capstone

from crashext.kernel.origin.instruction import Instruction, slot
from crashext.kernel.origin.lines import Lines

MOST_TEXTS = 1 << 16
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
_NUMBER = re.compile(r"\b(?:0x[0-9a-f]+|\d+)\b", re.ASCII)
_WORD = re.compile(r"\b[a-z]\w*", re.ASCII)


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
    turns: str
    """First letters of instructions after which control may go elsewhere than on."""
    registers: Mapping[str, tuple[str, int]]
    """Name -> (64-bit register, bits)."""


class Code:
    """The instructions of one function, in order."""

    def __init__(self, data: bytes, address: int, isa: Isa | None = None) -> None:
        self.isa = isa or X86_64
        self.all = Lines(self.isa.machine, data, address)
        self._reached: dict[tuple[str, int], tuple[Stretch, ...]] = {}

    def at(self, address: int) -> int | None:
        """The place of the instruction that begins at `address`."""
        addresses = self.all.addresses
        i = bisect_left(addresses, address)
        return i if i < len(addresses) and addresses[i] == address else None

    @cached_property
    def _ways(self) -> tuple[dict[int, list[int]], frozenset[int]]:
        """Places that jump to a place, and those that control does not come to from the one before.

        That is all; what only a jump table or a patched branch leads to is come to from nowhere.
        """
        found: dict[int, list[int]] = {}
        barred = {0}
        for i, address, ends in self.all.turns(self.isa.turns):
            to = None if address is None else self.at(address)
            if to is not None:
                found.setdefault(to, []).append(i)
            if ends:
                barred.add(i + 1)
        return found, frozenset(barred)

    @cached_property
    def _texts(self) -> list[Text | None]:
        """What is known of the encodings: most occur again and again."""
        return list(map(_known(self.isa.machine).get, self._encodings))

    @cached_property
    def _encodings(self) -> list[bytes]:
        return self.all.encodings()

    def _text(self, i: int) -> Text:
        known = self._texts[i]
        if known is None:
            every, encoding = _known(self.isa.machine), self._encodings[i]
            if len(every) >= MOST_TEXTS:
                every.clear()
            known = self._texts[i] = every[encoding] = self._form(*self.all.words(i))
        return known

    def _form(self, mnemonic: str, operands: str) -> Text:
        """What is known of all that read so but for the numbers, unless those name a slot."""
        if f"[{self.isa.stack}" not in operands and "[rbp" not in operands:
            operands = _NUMBER.sub("0", operands)
        return _form(self.isa.writes, mnemonic, operands)

    def writes(self, i: int) -> frozenset[str]:
        """64-bit registers, and slots of the stack, that an instruction changes."""
        return self._text(i).writes

    def touches(self, i: int) -> frozenset[str] | None:
        """Those that it changes or names; None of one after which control may go elsewhere, and of
        one that may be about any slot of the stack."""
        text = self._text(i)
        if text.touches is None and not text.anything:
            text.look(self.isa)
        return text.touches

    def about(self, i: int, end: int, names: Collection[str]) -> int:
        """The first place from `i` on that touches one of `names`, or may; `end` if none does."""
        while i < end and not self._about(i, names):
            i += 1
        return i

    def _about(self, i: int, names: Collection[str]) -> bool:
        touched = self.touches(i)
        return touched is None or not touched.isdisjoint(names)

    def set_last(self, name: str, i: int, most: int) -> tuple[Stretch, ...]:
        """The stretches of code that lead to the place `i`, backwards from there to where a
        register or a slot of the stack is set; it looks at `most` instructions, if so many."""
        key = name, i
        if key not in self._reached:
            self._reached[key] = tuple(self._stretches(name, i, most))
        return self._reached[key]

    def _stretches(self, name: str, i: int, most: int) -> Iterable[Stretch]:
        (jumps, barred), stack = self._ways, self.isa.stack
        wanted = {name, stack} if name.startswith(f"[{stack}") else {name}
        texts, seen = self._texts, set[int]()
        todo = [*jumps.get(i, ())] if i in barred else [*jumps.get(i, ()), i - 1]
        while todo and len(seen) < most:
            at, before = todo.pop(), len(seen)
            hit, entered = False, False
            while at not in seen:
                seen.add(at)
                text = texts[at] or self._text(at)
                if not wanted.isdisjoint(text.writes):
                    hit = True
                    break
                if at in jumps:
                    todo += jumps[at]
                if at in barred:
                    entered = not at
                    break
                at -= 1
            yield Stretch(len(seen) - before, at if hit else None, entered)


class Stretch(NamedTuple):
    """Instructions that follow each other, on the way to some place."""

    length: int
    sets: int | None
    """The place of the first of them, which sets what was asked about; None where it does not."""
    entered: bool
    """It begins with the function."""


class Text:
    """What all instructions have in common that read alike."""

    __slots__ = ("_operands", "anything", "touches", "writes")

    def __init__(self, one: Instruction, writes: frozenset[str]) -> None:
        self.writes, self._operands = writes, one.operands
        self.touches: frozenset[str] | None = None
        self.anything = one.jumps or one.ends_block
        """`touches` is None for good."""

    def look(self, isa: Isa) -> None:
        """Find what it touches."""
        one = Instruction(0, 0, "", self._operands)
        slots = {slot(part) for part in one.parts if "[" in part} - {None}
        self.anything |= f"[{isa.stack}" in one.operands and not slots
        if not self.anything:
            names = (isa.registers.get(word) for word in _WORD.findall(one.operands))
            named = (name[0] for name in names if name is not None)
            self.touches = self.writes.union(named, filter(None, slots))


@lru_cache(1 << 15)
def _form(writes: Callable[[Instruction], frozenset[str]], mnemonic: str, operands: str) -> Text:
    one = Instruction(0, 0, mnemonic, operands)
    return Text(one, writes(one))


@cache
def _known(machine: tuple[int, int]) -> dict[bytes, Text]:
    """By encoding."""
    return {}


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


X86_64 = Isa(
    (capstone.CS_ARCH_X86, capstone.CS_MODE_64), ARGUMENTS, "rsp", _writes, "jruib", REGISTERS
)

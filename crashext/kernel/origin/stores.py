"""What a function writes into the memory that it has just allocated.

Forward from the call, along the way that is taken when there was memory: copies of the returned
pointer in registers and stack slots, and stores through them. After a branch on anything else a
store may or may not be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crashext.hosts.base import U64
from crashext.kernel.origin.code import REGISTERS, Code, Instruction, slot
from crashext.kernel.origin.constants import MEMORY, Constants, width

_MOST_INSTRUCTIONS = 400
_MOST_STORES = 12
_TELLING = 0x10000  # numbers from here on are rarely alike by chance
_EQUAL, _UNEQUAL = ("je", "jz"), ("jne", "jnz")


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


def stores_after(
    code: Code, known: Constants, call: int, way: type[Walk] | None = None
) -> tuple[Store, ...]:
    """What is stored through the pointer that the call at place `call` returns; the telling ones
    first, where there are many."""
    walk = (way or Walk)(code, known)
    walk.follow(call + 1)
    found = sorted(walk.stores.values(), key=lambda s: (_dull(s), s.offset))[:_MOST_STORES]
    return tuple(sorted(found, key=lambda s: s.offset))


def _dull(store: Store) -> int:
    if store.kind == "self" or store.value >= _TELLING:
        return 0
    return 1 if store.value else 2


class Walk:
    """One way through the code, with what is known of the pointer on it; x86-64's."""

    result = "rax"
    """Where functions return."""

    def __init__(self, code: Code, known: Constants) -> None:
        self._code, self._known = code, known
        self._pointers: dict[str, int] = {self.result: 0}
        """Registers and stack slots that hold the pointer, and how far into the object."""
        self._certain = True
        self.stores: dict[int, Store] = {}

    def follow(self, i: int | None) -> None:
        seen: set[int] = set()
        while i is not None and i < len(self._code.all) and i not in seen:
            seen.add(i)
            if len(seen) > _MOST_INSTRUCTIONS or not self._pointers:
                return
            i = self._step(i)

    def _step(self, i: int) -> int | None:
        one = self._code.all[i]
        if one.jumps:
            return self._code.at(one.target or 0) if one.unconditional else self._branch(i)
        if one.ends_block:
            return None
        self._store(i, one)
        self._move(i, one)
        return i + 1

    def _branch(self, i: int) -> int | None:
        one, before = self._code.all[i], self._code.all[i - 1]
        parts = before.parts
        asked = REGISTERS.get(parts[0], ("", 0))[0] if parts else ""
        if before.mnemonic == "test" and len(set(parts)) == 1 and asked in self._pointers:
            return i + 1 if one.mnemonic in _EQUAL else self._code.at(one.target or 0)
        if before.mnemonic == "cmp" and asked in self._pointers:
            return i + 1  # whether it is an ERR_PTR()
        self._certain = False
        return i + 1

    def _move(self, i: int, one: Instruction) -> None:
        """Where the pointer is after the instruction."""
        after, name = None, ""
        if one.mnemonic in ("mov", "lea", "add", "sub"):
            into, what = one.parts
            name = _place(into)
            if one.mnemonic == "mov":
                after = self._pointers.get(_place(what))
            elif one.mnemonic == "lea":
                after = self._inside(what)
            elif name in self._pointers and "0x" in what:
                step = int(what, 16) if what.startswith("0x") else 0
                after = self._pointers[name] + (step if one.mnemonic == "add" else -step)
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
        if one.mnemonic not in ("mov", "movabs") or "[" not in one.operands:
            return
        parts = one.parts
        if len(parts) != 2 or "[" not in parts[0]:
            return
        offset = self._inside(parts[0])
        if offset is None or offset < 0:
            return
        size = width(parts[0]) // 8
        source = _place(parts[1])
        self.stores.pop(offset, None)
        if source in self._pointers and size == 8:
            into = self._pointers[source]
            self.stores[offset] = Store(offset, size, "self", U64(into), self._certain)
            return
        values = self._known.operand(i, parts[1])
        if len(values) == 1:
            number = U64(values[0] & (1 << 8 * size) - 1)
            self.stores[offset] = Store(offset, size, "value", number, self._certain)


def _place(operand: str) -> str:
    """A whole register, or a stack slot; "" for anything else."""
    name, bits = REGISTERS.get(operand, ("", 0))
    return name if bits == 64 else slot(operand) or ""

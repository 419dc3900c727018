"""What an arm64 function writes into the memory that it has just allocated; see stores.py."""

from __future__ import annotations

from crashext.kernel.origin.code_arm64 import REGISTERS, memory, stored
from crashext.kernel.origin.instruction import Instruction
from crashext.kernel.origin.kept import Kept, tagged
from crashext.kernel.origin.stores import Walk


class Arm64Walk(Walk):
    """One way through the code, with what is known of the pointer on it."""

    result = "x0"

    def _branch(self, i: int, one: Instruction) -> int | None:
        before = self._code.all[i - 1]
        parts = one.parts
        if one.mnemonic in ("cbz", "cbnz") and _whole(parts[0]) in self._pointers:
            return i + 1 if one.mnemonic == "cbz" else self._code.at(one.target or 0)
        compared = before.parts
        if before.mnemonic in ("cmp", "cmn") and compared and _whole(compared[0]) in self._pointers:
            return i + 1  # whether it is an ERR_PTR()
        self._certain = False
        self._fork(one)
        return i + 1

    def _move(self, i: int, one: Instruction) -> None:
        parts, after = one.parts, {}
        if one.mnemonic == "mov" and len(parts) == 2 and _whole(parts[1]) in self._pointers:
            after[_whole(parts[0])] = self._pointers[parts[1]]
        elif one.mnemonic in ("add", "sub") and len(parts) == 3 and parts[2].startswith("#"):
            if _whole(parts[1]) in self._pointers:
                step = int(parts[2][1:], 0)
                step = step if one.mnemonic == "add" else -step
                after[_whole(parts[0])] = self._pointers[parts[1]] + step
        elif one.mnemonic == "orr" and len(parts) == 3:
            inside = tagged(self._pointers.get(_whole(parts[1])), parts[2])
            if inside is not None:
                after[_whole(parts[0])] = inside
        elif one.mnemonic == "ldr" and (where := memory(parts[1])) is not None:
            kept = self._pointers.get(f"[sp+{where.offset:#x}]") if where.base == "sp" else None
            if kept is not None:
                after[_whole(parts[0])] = kept
        for register, bits, where in stored(one):
            if where.base == "sp" and bits == 64 and register in self._pointers:
                after[f"[sp+{where.offset:#x}]"] = self._pointers[register]
        for written in self._code.writes(i):
            self._pointers.pop(written, None)
        self._pointers.update((name, at) for name, at in after.items() if name)

    def _keep(self, one: Instruction) -> None:
        for register, bits, where in stored(one):
            inside = self._pointers.get(register)
            if bits == 64 and inside is not None and where.base not in (*self._pointers, "sp"):
                self.kept.add(Kept("member", where.offset, inside, one.address, where.base))

    def _store(self, i: int, one: Instruction) -> None:
        for register, bits, where in stored(one):
            if where.base in self._pointers:
                offset = self._pointers[where.base] + where.offset
                self._stored(i, offset, bits // 8, _whole(register), register, self._certain)


def _whole(operand: str) -> str:
    """A 64-bit register; "" for anything else."""
    name, bits = REGISTERS.get(operand, ("", 0))
    return name if bits == 64 else ""

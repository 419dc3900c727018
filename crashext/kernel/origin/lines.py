"""A function's instructions as capstone leaves them in memory: put in words when somebody asks.

Of most functions a few instructions around a call are all that is asked about, and capstone's own
Python reads every one of them: a million in one look through a busy kernel.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import overload

import capstone
import numpy as np
from capstone import _cs, _cs_insn

from crashext.kernel.origin.instruction import Instruction, ends, jumps

_WIDTH = ctypes.sizeof(_cs_insn)
_MNEMONIC, _OPERANDS = _cs_insn.mnemonic, _cs_insn.op_str
_TABLE = np.dtype(
    {
        "names": ["address", "size"],
        "formats": ["=u8", "=u2"],
        "offsets": [_cs_insn.address.offset, _cs_insn.size.offset],
        "itemsize": _WIDTH,
    }
)


@cache
def disassembler(machine: tuple[int, int]) -> capstone.Cs:
    """capstone's, of an architecture and mode."""
    return capstone.Cs(*machine)


@cache
def _turn(mnemonic: bytes) -> tuple[bool, bool]:
    name = mnemonic.decode("ascii")
    return jumps(name), ends(name)


class Lines(Sequence[Instruction]):
    """Of one piece of text, in order of address; what makes no sense ends it."""

    def __init__(self, machine: tuple[int, int], data: bytes, address: int) -> None:
        found = ctypes.POINTER(_cs_insn)()
        reader = disassembler(machine)
        count = _cs.cs_disasm(reader.csh, data, len(data), address, 0, ctypes.byref(found))
        self._raw = ctypes.string_at(found, count * _WIDTH) if count else b""
        if count:
            _cs.cs_free(found, count)
        table = np.frombuffer(self._raw, _TABLE)
        self.addresses: Sequence[int] = table["address"].tolist()
        self._sizes: Sequence[int] = table["size"].tolist()
        self._data = data
        self._known: dict[int, Instruction] = {}

    def __len__(self) -> int:
        return len(self.addresses)

    @overload
    def __getitem__(self, i: int) -> Instruction: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Instruction]: ...

    def __getitem__(self, i: int | slice) -> Instruction | Sequence[Instruction]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self.addresses)))]
        known = self._known.get(i)
        if known is None:
            at = range(len(self.addresses))[i]
            known = Instruction(self.addresses[at], self._sizes[at], *self.words(at))
            self._known[i] = known
        return known

    def encodings(self) -> list[bytes]:
        """The bytes of each instruction."""
        data, last = self._data, self.addresses[0] if self.addresses else 0
        starts = [address - last for address in self.addresses]
        return [data[a : a + n] for a, n in zip(starts, self._sizes, strict=True)]

    def operate_on(self, operands: str, first: int) -> bool:
        """Whether one of the `first` instructions has these operands."""
        return any(one.operands == operands for one in self[:first])

    def turns(self, letters: str) -> Iterator[tuple[int, int | None, bool]]:
        """Where control may go elsewhere than on: (place, address, whether it never goes on), of
        those whose mnemonics begin with one of `letters`; None where that is to no one address."""
        raw = self._raw
        first = raw[_MNEMONIC.offset :: _WIDTH]
        for found in re.finditer(b"[%b]" % letters.encode(), first):
            at = found.start() * _WIDTH
            name, text = at + _MNEMONIC.offset, at + _OPERANDS.offset
            jump, end = _turn(raw[name : raw.index(0, name)])
            if jump or end:
                last = raw[text : raw.index(0, text)].rpartition(b"#")[2] if jump else b""
                to = int(last, 16) if last.startswith(b"0x") and last.isalnum() else None
                yield found.start(), to, end

    def words(self, i: int) -> tuple[str, str]:
        """Mnemonic and operands."""
        raw, at = self._raw, i * _WIDTH
        mnemonic, operands = at + _MNEMONIC.offset, at + _OPERANDS.offset
        return (
            raw[mnemonic : raw.index(0, mnemonic)].decode("ascii"),
            raw[operands : raw.index(0, operands)].decode("ascii"),
        )

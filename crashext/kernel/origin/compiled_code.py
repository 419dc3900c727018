"""`Code` by the compiled loops of instructions.c: x86-64's, the same answers in less time.

What an instruction changes and touches is told of all of them at once, as masks of registers, and
the ways to a place are followed there. Words are made of those that somebody asks about.
"""

from __future__ import annotations

import ctypes
import re
from array import array
from collections.abc import Collection, Iterable

from capstone import _cs, _cs_insn

from crashext.kernel.compiled import library
from crashext.kernel.origin.code import MOST_TEXTS, X86_64, Code, Isa, Stretch, Text
from crashext.kernel.origin.lines import Lines, disassembler

_NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_BIT = {name: 1 << i for i, name in enumerate(_NAMES)}
_SLOT, _ANYTHING = 1 << 16, 1 << 17
_FAR, _IS_SLOT = 1 << 41, 1 << 50
_NO_SLOT = 1
"""Of a name that capstone gives to none."""
_PLACE = re.compile(r"\[(rsp|rbp)(?: ([+-]) (0x[0-9a-f]{1,10}|\d))?\]", re.ASCII)
_SIZES = {kind: array(kind).itemsize for kind in "BHIQi"}
_LINE = 32  # sizeof(struct line)
_TEXTS: dict[bytes, Text] = {}
"""By mnemonic and operands: most occur again and again."""


class _Fields(ctypes.Structure):
    """struct fields."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("width", "address", "size", "mnemonic", "operands"),
            *("mnemonic_length", "operands_length", "unused"),
        )
    ]


class _Table(ctypes.Structure):
    """struct code."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("lines", "first", "jumps", "seen", "todo", "ways")),
        ("visited", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    ]


_FIELDS = _Fields(
    ctypes.sizeof(_cs_insn),
    _cs_insn.address.offset,
    _cs_insn.size.offset,
    _cs_insn.mnemonic.offset,
    _cs_insn.op_str.offset,
    _cs_insn.mnemonic.size,
    _cs_insn.op_str.size,
)


def _zeros(kind: str, count: int) -> array[int]:
    return array(kind, bytes(count * _SIZES[kind]))


def _at(values: array[int]) -> int:
    return values.buffer_info()[0]


class CompiledLines(Lines):
    """See `Lines`."""

    def __init__(
        self, loops: ctypes.CDLL, machine: tuple[int, int], data: bytes, address: int
    ) -> None:
        found = ctypes.POINTER(_cs_insn)()
        reader = disassembler(machine)
        count = _cs.cs_disasm(reader.csh, data, len(data), address, 0, ctypes.byref(found))
        fields = ctypes.addressof(_FIELDS)
        raw = ctypes.cast(found, ctypes.c_void_p).value
        addresses, sizes, text_size = _zeros("Q", count), _zeros("H", count), 0
        self.addresses, self._sizes = addresses, sizes
        self.touches = _zeros("I", count)
        """Masks; see `about`."""
        if count:
            text_size = loops.crashext_lines_text(raw, count, fields)
        text = _zeros("B", text_size)
        self._loops, self._lines = loops, _zeros("B", count * _LINE)
        self._starts = _zeros("i", count + 1)
        self._jumps = 0
        if count:
            self._jumps = loops.crashext_lines(
                *(raw, count, fields, _at(addresses), _at(sizes), _at(self.touches)),
                *(_at(self._lines), _at(self._starts), _at(text)),
            )
            _cs.cs_free(found, count)
        self._text = text.tobytes()
        self._known = {}
        self._table: _Table | None = None

    def operate_on(self, operands: str, first: int) -> bool:
        """See `Lines`; no words are made for it."""
        end = self._starts[min(first, len(self.addresses))]
        return self._text.find(f"\0{operands}\0".encode("ascii"), 0, end) >= 0

    def raw(self, i: int) -> bytes:
        """Mnemonic and operands, not put in words."""
        return self._text[self._starts[i] : self._starts[i + 1] - 1]

    def words(self, i: int) -> tuple[str, str]:
        """Mnemonic and operands."""
        both = self.raw(i).decode("ascii")
        mnemonic, _, operands = both.partition("\0")
        return mnemonic, operands

    def set_last(self, registers: int, on_stack: int, i: int, most: int) -> list[Stretch]:
        """See `Code.set_last`; of a mask of registers, or a slot of the stack by number."""
        table = self._table or self._tables()
        found = self._loops.crashext_set_last(ctypes.addressof(table), i, registers, on_stack, most)
        ways = iter(self._ways[: 3 * found])
        return [
            Stretch(length, None if sets < 0 else sets, bool(entered))
            for length, sets, entered in zip(ways, ways, ways, strict=True)
        ]

    def _tables(self) -> _Table:
        """What the loop needs beside the lines."""
        count, room = len(self.addresses), 2 * self._jumps + 2
        self._ways = _zeros("i", 3 * room)
        self._arrays = (
            *(_zeros("i", count + 2), _zeros("i", self._jumps), _zeros("B", count)),
            *(_zeros("i", room), self._ways, _zeros("i", count)),
        )
        lines, (first, jumps, *rest) = _at(self._lines), map(_at, self._arrays)
        self._loops.crashext_jumps(lines, count, first, jumps)
        self._table = _Table(lines, first, jumps, *rest, count)
        return self._table


class CompiledCode(Code):
    """See `Code`."""

    def __init__(self, loops: ctypes.CDLL, data: bytes, address: int, isa: Isa) -> None:
        self.isa = isa
        self.all: CompiledLines = CompiledLines(loops, isa.machine, data, address)
        self._reached = {}

    def _text(self, i: int) -> Text:
        raw = self.all.raw(i)
        known = _TEXTS.get(raw)
        if known is None:
            if len(_TEXTS) >= MOST_TEXTS:
                _TEXTS.clear()
            known = _TEXTS[raw] = self._form(*self.all.words(i))
        return known

    def about(self, i: int, end: int, names: Collection[str]) -> int:
        wanted = _ANYTHING
        for name in names:
            wanted |= _BIT.get(name, 0) or (_SLOT if name else 0)
        sure, touches = wanted & ~_SLOT, self.all.touches
        for j in range(i, end):
            touched = touches[j] & wanted
            if touched and (touched & sure or self._about(j, names)):
                return j
        return end

    def _stretches(self, name: str, i: int, most: int) -> Iterable[Stretch]:
        registers, on_stack = _BIT.get(name, 0), 0
        if not registers:
            on_stack = _number(name)
            registers = _BIT[self.isa.stack] if name.startswith(f"[{self.isa.stack}") else 0
        return self.all.set_last(registers, on_stack, i, most)


def _number(name: str) -> int:
    """A slot of the stack as slot_in() of instructions.c numbers it."""
    found = _PLACE.fullmatch(name)
    if found is None:
        return _NO_SLOT
    far = int(found[3] or "0", 0)
    if found[3] and found[3] != (str(far) if far < 10 else f"{far:#x}"):
        return _NO_SLOT
    far = -far if found[2] == "-" else far
    return _IS_SLOT | (far + _FAR) << 1 | (found[1] == "rbp")


def code_of(data: bytes, address: int, isa: Isa) -> Code:
    """The instructions of a function, compiled loops used where there are any."""
    loops = library() if isa is X86_64 else None
    return Code(data, address, isa) if loops is None else CompiledCode(loops, data, address, isa)

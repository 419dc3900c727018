"""Many symbols at hand, to be found by address.

drgn looks through a whole ELF symbol table at each question (2 ms for a kernel), and makes an
object of each of 130,000 symbols where it is asked for all; whoever names thousands of places, as
call sites are, needs this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from numpy.typing import NDArray

from crashext.hosts.base import Addresses
from crashext.hosts.percpu import PERCPU_END

ELF_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_NAMELESS = (3, 4)  # STT_SECTION, STT_FILE
_ABSOLUTE = 0xFFF1  # SHN_ABS


@dataclass(frozen=True)
class Symbols:
    """Symbols in no order, an array element each."""

    address: Addresses
    size: Addresses
    name: Sequence[str]

    def below(self, end: int) -> Iterator[tuple[int, str]]:
        """(address, name) of each symbol below an address."""
        rows = np.flatnonzero(self.address < np.uint64(end)).tolist()
        return ((int(self.address[i]), self.name[i]) for i in rows)


class _Names(Sequence[str]):
    """Of a string table, taken out when they are asked for."""

    def __init__(self, text: bytes, offsets: NDArray[np.uint32]) -> None:
        self._text, self._offsets = text, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> _Names: ...
    def __getitem__(self, i: int | slice) -> str | _Names:
        if isinstance(i, slice):
            return _Names(self._text, self._offsets[i])
        at = int(self._offsets[i])
        return self._text[at : self._text.find(b"\0", at)].decode("utf-8", "backslashreplace")


def elf_symbols(path: Path, bias: int, ranges: Sequence[tuple[int, int]]) -> Symbols | None:
    """Those of a kernel's ELF file; None where it has no table of them.

    `bias` is what KASLR adds to those that are then within the kernel's `ranges`.
    """
    try:
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            if (
                not isinstance(table, SymbolTableSection)
                or table["sh_entsize"] != ELF_SYMBOL.itemsize
            ):
                return None
            entries = np.frombuffer(table.data(), ELF_SYMBOL)
            text = table.stringtable.data()
    except (OSError, ELFError, ValueError):
        return None
    entries = entries[(entries["section"] != 0) & (entries["name"] < len(text))]
    entries = entries[(entries["name"] != 0) & ~np.isin(entries["info"] & 0xF, _NAMELESS)]
    # Numbers that assembler code has names for (i, vector, type), where per-CPU variables are, too.
    numbers = (entries["section"] == _ABSOLUTE) & (entries["value"] < PERCPU_END)
    entries = entries[~numbers]
    address = entries["value"].astype(np.uint64)
    moved = address + np.uint64(bias % (1 << 64))
    inside = np.zeros(len(moved), np.bool_)
    for start, end in ranges:
        inside |= (moved >= np.uint64(start)) & (moved < np.uint64(end))
    address[inside] = moved[inside]
    return Symbols(address, entries["size"].astype(np.uint64), _Names(text, entries["name"]))


class SymbolTable:
    """Symbols of one kernel image, by the range that they cover."""

    def __init__(self, symbols: Symbols) -> None:
        """What has no size covers nothing."""
        self._name = symbols.name
        rows = np.flatnonzero(symbols.size)
        rows = rows[np.argsort(symbols.address[rows], kind="stable")]
        ends = symbols.address[rows] + symbols.size[rows]
        self._rows: list[int] = rows.tolist()
        self._starts: list[int] = symbols.address[rows].tolist()
        self._ends: list[int] = ends.tolist()
        # How far all symbols up to here reach: an outer one may begin long before an inner one.
        self._reach: list[int] = np.maximum.accumulate(ends).tolist()

    def at(self, address: int) -> tuple[int, int, str] | None:
        """(address, size, name) of the symbol whose range holds `address`.

        Aliases share an address: the widest is the object itself, the name breaks the tie. Labels
        that the compiler made up (.LC0) name nothing.
        """
        i = bisect_right(self._starts, address) - 1
        found = []
        while i >= 0 and self._reach[i] > address:
            if address < self._ends[i]:
                name = self._name[self._rows[i]]
                if not name.startswith(".L"):
                    found.append((self._starts[i], self._ends[i] - self._starts[i], name))
            i -= 1
        return min(found, key=lambda s: (-s[1], s[2]), default=None)

"""Calls of functions by the relocations of object files: what the compiler itself wrote down.

Independent of any reading of code: an object file lists every place that the linker, or the loader
of modules, has to fill in with a function's address. Debian's kernels up to 6.1 keep that list in
the linked vmlinux too.
"""

from __future__ import annotations

import lzma
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from numpy.typing import NDArray

# Calls and jumps: R_X86_64_PC32, R_X86_64_PLT32; R_AARCH64_JUMP26, R_AARCH64_CALL26
_TYPES = {"EM_X86_64": ([2, 4], -4, 1), "EM_AARCH64": ([282, 283], 0, 0)}
"""Types, addend of a call of a function's first byte, bytes of opcode before the place."""
_SHF_EXECINSTR = 4
_RELOCATION = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_SYMBOL = np.dtype(
    [("name", "<u4"), ("kind", "<u2"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


def calls(file: Path, names: Collection[str], sections: Mapping[str, int]) -> NDArray[np.uint64]:
    """Where text of an object file calls functions called `names`; `sections` has the addresses in
    memory of the sections that are looked at."""
    data = file.read_bytes()
    elf = ELFFile(BytesIO(lzma.decompress(data) if file.suffix == ".xz" else data))
    found = [np.zeros(0, np.uint64), *_found(elf, names, sections)]
    return np.unique(np.concatenate(found))


def _found(
    elf: ELFFile, names: Collection[str], sections: Mapping[str, int]
) -> Iterator[NDArray[np.uint64]]:
    types, first, opcode = _TYPES[elf["e_machine"]]
    for table in elf.iter_sections():
        if not isinstance(table, RelocationSection):
            continue
        section = elf.get_section(table["sh_info"])
        at = sections.get(section.name)
        if not section["sh_flags"] & _SHF_EXECINSTR or at is None:
            continue
        rows = np.frombuffer(table.data(), _RELOCATION)
        symbols = elf.get_section(table["sh_link"])
        of = np.frombuffer(symbols.data(), _SYMBOL)["name"]
        strings = elf.get_section(symbols["sh_link"]).data()
        text = [strings[o : strings.index(b"\0", o)].decode() for o in of.tolist()]
        wanted = np.array([name in names for name in text])
        kinds = rows["info"] & np.uint64(0xFFFFFFFF)
        mine = np.isin(kinds, types) & (rows["addend"] == first)
        mine &= wanted[(rows["info"] >> np.uint64(32)).astype(np.int64)]
        yield rows["offset"][mine] - np.uint64(section["sh_addr"] + opcode) + np.uint64(at)

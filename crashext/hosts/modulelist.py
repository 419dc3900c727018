"""The kernel's list of modules, read without a debugger: where they are, and their symbols.

Each keeps its ELF symbol table in memory for kallsyms. Sources: include/linux/module.h, from 3.10
to 7.2: struct module_layout from 4.5 (7523e4dc5057), struct mod_kallsyms from 4.5 (8244062ef1e5),
areas by purpose from 6.4 (ac3b43283923).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, Layout, Member, Module, ReadFault, Symbol, UnknownLayout

_MAX_MODULES = 1 << 12
_MAX_SYMBOLS = 1 << 18
_MAX_STRINGS = 1 << 24
_MOST_AREA = 512 << 20
"""Bytes of one area of a module; more is a damaged size."""
_LONGEST = 512  # KSYM_NAME_LEN
_NAME = 56  # MODULE_NAME_LEN on 64-bit machines
_UNFORMED = "MODULE_STATE_UNFORMED"
_ELF_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_NO_SYMBOLS = np.zeros(0, _ELF_SYMBOL), b""
STB_GLOBAL = 1
_LEAST_LETTER = ord("?")
"""Of nm's letters for a symbol; ELF's own info byte is less."""


@dataclass(frozen=True)
class ModuleSymbol:
    """A symbol of a module, with what its ELF symbol table says of it."""

    symbol: Symbol
    is_global: bool


def module_list(host: Host) -> Iterator[tuple[int, Module]]:
    """(address of struct module, module) along the list `modules`; a broken list ends there.

    Raises `UnknownLayout` where types are known and modules are not: what their variables hold
    would look leaked.
    """
    head, layout = host.address_of("modules"), host.layout("struct module")
    if head is None or layout is None:
        return
    unformed = host.enumerator(_UNFORMED)
    try:
        at = _number(host, head, 8)
        seen = {head}
        for _ in range(_MAX_MODULES):
            if at in seen:
                return
            seen.add(at)
            module = at - layout["list"].offset
            row = host.read(module, layout.size)
            at = _in(row, layout["list"])
            name = _string(row, layout["name"].offset)
            ranges = tuple(sorted(filter(_possible, _areas(host, row, layout))))
            if ranges and (unformed is None or _in(row, layout["state"]) != unformed):
                yield module, Module(name, ranges)
    except ReadFault:
        return


def _possible(area: tuple[int, int]) -> bool:
    start, end = area
    return start >> 63 == 1 and end - start <= _MOST_AREA and end < 1 << 64


def _areas(host: Host, row: bytes, layout: Layout) -> Iterator[tuple[int, int]]:
    if "mem" in layout:
        one = host.layout("struct module_memory")
        first, end = layout["mem"].offset, layout["mem"].offset + layout["mem"].size
        offsets = [] if one is None else list(range(first, end, one.size))
    else:
        one = host.layout("struct module_layout")
        offsets = [layout[m].offset for m in ("core_layout", "init_layout") if m in layout]
    if not offsets:
        for part in ("core", "init"):
            base, size = _in(row, layout[f"module_{part}"]), _in(row, layout[f"{part}_size"])
            if base and size:
                yield base, base + size
    if one is None:
        return
    for offset in offsets:
        base = _in(row[offset:], one["base"])
        size = _in(row[offset:], one["size"])
        if base and size:
            yield base, base + size


class ModuleSymbols:
    """Of one module, made when somebody asks: a machine has a hundred thousand."""

    def __init__(self, entries: NDArray[np.void], strings: bytes, module: Module) -> None:
        entries = entries[entries["section"] != 0]  # else defined elsewhere
        text = np.frombuffer(strings, np.uint8)
        entries = entries[text[entries["name"]] != 0]
        self._entries, self._strings, self._module = entries, strings, module.name
        self._starts = entries["value"]
        self._ends = self._starts + entries["size"]

    def __iter__(self) -> Iterator[ModuleSymbol]:
        return map(self._made, range(len(self._entries)))

    def at(self, address: int) -> list[ModuleSymbol]:
        """Those whose range holds an address; what has no size covers nothing."""
        word = np.uint64(address)
        inside = np.flatnonzero((self._starts <= word) & (word < self._ends))
        return [self._made(row) for row in inside.tolist()]

    def named(self, name: str) -> ModuleSymbol | None:
        """The first of that name."""
        if name.encode("ascii", "backslashreplace") not in self._strings:
            return None
        return next((s for s in self if s.symbol.name == name), None)

    def _made(self, row: int) -> ModuleSymbol:
        name, info, _, _, value, size = self._entries[row].tolist()
        strings = self._strings
        text = strings[name : strings.find(b"\0", name)].decode("ascii", "backslashreplace")
        known = self._later[row] if info >= _LEAST_LETTER else info >> 4 == STB_GLOBAL
        return ModuleSymbol(Symbol(text, value, size, self._module), bool(known))

    @cached_property
    def _later(self) -> NDArray[np.bool_]:
        """Whether one before has its address."""
        later = np.ones(len(self._entries), np.bool_)
        later[np.unique(self._starts, return_index=True)[1]] = False
        return later


def module_symbols(host: Host, address: int, module: Module) -> ModuleSymbols:
    """Symbols that a module's kallsyms holds; none where they are not in the dump.

    Before 1c7651f43777 (5.2) nm's letter of each stood in place of its binding. ELF has the global
    ones behind the local ones: of two that share an address the second is the one to be global.
    """
    return ModuleSymbols(*(_symbol_table(host, address) or _NO_SYMBOLS), module)


def _symbol_table(host: Host, address: int) -> tuple[NDArray[np.void], bytes] | None:
    layout, table = host.layout("struct module"), host.layout("struct mod_kallsyms")
    if layout is None:
        return None
    try:
        at, table = address, table or layout
        if "kallsyms" in layout:
            at = _number(host, address + layout["kallsyms"].offset, 8)
        row = host.read(at, table.size) if at else bytes(table.size)
        count = _in(row, table["num_symtab"])
        if not 0 < count <= _MAX_SYMBOLS:
            return None
        raw = host.read(_in(row, table["symtab"]), count * _ELF_SYMBOL.itemsize)
        entries = np.frombuffer(raw, _ELF_SYMBOL)
        return entries, _strings(host, _in(row, table["strtab"]), int(entries["name"].max()))
    except (ReadFault, UnknownLayout):
        return None


def _strings(host: Host, address: int, last: int) -> bytes:
    """A string table up to the end of the string at `last`, or to where that may not be longer."""
    if last >= _MAX_STRINGS:
        raise ReadFault(address)
    data = bytearray(host.read(address, last + 1))
    for _ in range(_LONGEST):
        if data.find(b"\0", last) >= 0:
            break
        data += host.read(address + len(data), 1)
    return bytes(data)


def _in(row: bytes, member: Member) -> int:
    size = min(member.size, 8)
    return int.from_bytes(row[member.offset : member.offset + size], "little")


def _number(host: Host, address: int, size: int) -> int:
    return int.from_bytes(host.read(address, size), "little")


def _string(row: bytes, offset: int) -> str:
    return row[offset : offset + _NAME].split(b"\0", 1)[0].decode("ascii", "backslashreplace")

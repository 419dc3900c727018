"""Symbols of modules: each keeps its ELF symbol table in memory for kallsyms.

They are there once, with no debug info to compare them with; what damage breaks in them is known
to modulesymbols_names.py and modulesymbols_places.py. A module whose table is damaged has none: a
wrong name is worse than an address. Sources: kernel/module/kallsyms.c, from 3.10 to 7.2; struct
mod_kallsyms from 4.5 (8244062ef1e5), letters apart from 5.2 (1c7651f43777).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, Layout, Module, ReadFault, Symbol, UnknownLayout
from crashext.hosts.modulesymbols_names import (
    STB_GLOBAL,
    a_bit_from,
    no_name,
    out_of_order,
    strange_chain,
    without_its_own,
)
from crashext.hosts.modulesymbols_places import Piece, Places
from crashext.hosts.symboltable import ELF_SYMBOL

_MAX_SYMBOLS = 1 << 18
_MAX_STRINGS = 1 << 24
_LONGEST = 512  # KSYM_NAME_LEN
_MOST_READ = 1 << 27  # bytes of a module's areas
_PAGE = 4096
_X86_64 = "x86_64"
_RESERVED = 0xFF00  # SHN_LORESERVE
_LEAST_LETTER = ord("?")
"""Of nm's letters for a symbol; ELF's own info byte is less."""
_FUNCTION = 2  # STT_FUNC
_ITSELF = "__this_module"
_NO_ROW = "their names do not follow one another"


@runtime_checkable
class FunctionTypes(Protocol):
    """Types that know the functions of modules by name."""

    def module_functions(self, module: str) -> Collection[str]: ...


@runtime_checkable
class DoubtingHost(Protocol):
    """A host that looks whether the symbols that it was asked for are whole."""

    def doubts(self) -> list[str]:
        """What is, or may be, wrong with them, a line each."""
        ...


@dataclass(frozen=True)
class ModuleSymbol:
    """A symbol of a module, with what its ELF symbol table says of it."""

    symbol: Symbol
    is_global: bool


@dataclass(frozen=True)
class Table:
    """A module's symbol table as the kernel keeps it."""

    entries: NDArray[np.void]
    strings: bytes
    letters: bytes
    """nm's, one for each; where they are not to be had, none."""
    core: bool
    """Whether it is the one that stays when a module is initialised, and that the kernel made."""
    percpu: tuple[int, int]
    """Where its per-CPU variables are; from 0 to 0 where it has none."""
    itself: tuple[int, int]
    """Address and size of its struct module."""

    @cached_property
    def names(self) -> list[bytes]:
        strings = self.strings
        return [strings[at : strings.find(b"\0", at)] for at in self.entries["name"].tolist()]


class ModuleSymbols:
    """Of one module, made when somebody asks: a machine has a hundred thousand."""

    def __init__(self, table: Table | None, module: Module, damage: str = "") -> None:
        """`damage`: what is wrong with the table; it has no symbols then."""
        self.damage = damage
        entries, strings = np.zeros(0, ELF_SYMBOL), b""
        if table is not None and not damage:
            entries, strings = table.entries, table.strings
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


def module_symbols(
    host: Host, address: int, module: Module, functions: Callable[[], Collection[str]] = set
) -> ModuleSymbols:
    """Symbols that a module's kallsyms holds; none where they are not in the dump, or damaged.

    `functions` gives names of its functions that another witness has. Before 1c7651f43777 (5.2)
    nm's letter of each stood in place of its binding. ELF has the global ones behind the local
    ones: of two that share an address the second is the one to be global.
    """
    found = _symbol_table(host, address)
    if not isinstance(found, Table):
        return ModuleSymbols(None, module, found)
    return ModuleSymbols(found, module, _defect(host, found, module, functions))


def _defect(
    host: Host, table: Table, module: Module, functions: Callable[[], Collection[str]]
) -> str:
    """What is wrong with a table; "" where nothing is seen."""
    entries, names = table.entries, table.names
    if table.core and strange_chain(entries["name"], names):
        return _NO_ROW
    own = (entries["section"] != 0) & (entries["section"] < _RESERVED)
    rows = [row for row in np.flatnonzero(own).tolist() if names[row]]
    if table.core and len(rows) != len(names) - 1:
        return "some are in no section"
    if strange := no_name([names[row] for row in rows]):
        return f"{strange} is no name"
    bindings = entries["info"][rows]
    if (bindings < _LEAST_LETTER).all():
        is_global = bindings >> 4 != 0
        if (is_global[:-1] & ~is_global[1:]).any():
            return "local ones stand among the global ones"
        if out_of_order(
            [names[row] for row, is_one in zip(rows, is_global, strict=True) if is_one]
        ):
            return "they are not in their linker's order"
    if not _has_itself(table):
        return f"{_ITSELF} is not where it is"
    texts = {names[row].decode("ascii") for row in rows}
    if part := without_its_own(texts):
        return f"{part} is there, and what it is a part of is not"
    if other := a_bit_from(texts, functions()):
        return f"{other} is a bit from a function's name"
    return _misplaced(host, table, module) if table.core else ""


def _has_itself(table: Table) -> bool:
    """Whether the struct module is where its symbol says, where there is one (none without
    CONFIG_KALLSYMS_ALL), and nothing else is there.
    """
    starts, sizes = table.entries["value"], table.entries["size"]
    there = np.flatnonzero((starts == np.uint64(table.itself[0])) & (sizes > 0)).tolist()
    named = [row for row, name in enumerate(table.names) if name == _ITSELF.encode()]
    return there == named and all(int(sizes[row]) == table.itself[1] for row in named)


def _misplaced(host: Host, table: Table, module: Module) -> str:
    ours = host.info().arch == _X86_64
    places = Places(
        table.entries, table.names, _code_of(table), _pieces(host, module) if ours else ()
    )
    areas = [*module.ranges, table.percpu]
    constants = frozenset(
        table.entries["section"][np.frombuffer(table.letters, np.uint8) == ord("r")].tolist()
        if table.letters
        else table.entries["section"].tolist()
    )
    row = places.outside(areas)
    if row is not None:
        return f"{_text(table, row)} is outside of it"
    for row in (places.overlap(), places.astray()):
        if row is not None:
            return f"{_text(table, row)} is in the place of another"
    row = places.displaced(constants)
    return "" if row is None else f"{_text(table, row)} is not where it was"


def _text(table: Table, row: int) -> str:
    return table.names[row].decode("ascii", "backslashreplace")


def _code_of(table: Table) -> NDArray[np.bool_]:
    """Which are in code."""
    if table.letters:
        return np.isin(np.frombuffer(table.letters, np.uint8), np.frombuffer(b"tT", np.uint8))
    info = table.entries["info"]
    letters = np.isin(info, np.frombuffer(b"tT", np.uint8))
    return np.where(info < _LEAST_LETTER, info & 0xF == _FUNCTION, letters)


def _pieces(host: Host, module: Module) -> list[Piece]:
    """What a module's areas hold; none where some of that is not in the dump."""
    found: list[Piece] = []
    if sum(end - start for start, end in module.ranges) > _MOST_READ:
        return found
    for start, end in module.ranges:
        try:
            found.append(Piece(start, host.read(start, end - start)))
        except ReadFault:
            continue
    return found


def _symbol_table(host: Host, address: int) -> Table | str:
    """A module's; what is wrong with it where that is known, "" where it is not in the dump."""
    layout, table = host.layout("struct module"), host.layout("struct mod_kallsyms")
    if layout is None:
        return ""
    try:
        module = host.read(address, layout.size)
        at, table = address, table or layout
        core = "core_symtab" in layout and _in(module, layout, "core_symtab") == _in(
            module, layout, "symtab"
        )
        if "kallsyms" in layout:
            at = _in(module, layout, "kallsyms")
            core = "core_kallsyms" in layout and at == address + layout["core_kallsyms"].offset
        row = host.read(at, table.size) if at else bytes(table.size)
        count, symtab, strtab = (_in(row, table, m) for m in ("num_symtab", "symtab", "strtab"))
        core = core and not ("klp" in layout and _in(module, layout, "klp"))
        if not count:
            return ""
        if core and strtab != symtab + count * ELF_SYMBOL.itemsize:
            return "the table is not as long as it says"
        if count > _MAX_SYMBOLS:
            return ""
        raw = host.read(symtab, count * ELF_SYMBOL.itemsize)
        entries = np.frombuffer(raw, ELF_SYMBOL)
        starts = entries["name"].astype(np.int64)
        steps = np.diff(starts)
        if core and ((steps <= 0) | (steps > _LONGEST)).any():
            return _NO_ROW
        last = int(starts.max())
        if last >= _MAX_STRINGS:
            return _NO_ROW if core else ""
        return Table(
            entries,
            _strings(host, strtab, last),
            _letters(host, row, table, count),
            core,
            _percpu(module, layout),
            (address, layout.size),
        )
    except (ReadFault, UnknownLayout):
        return ""


def _letters(host: Host, row: bytes, table: Layout, count: int) -> bytes:
    if "typetab" not in table:
        return b""
    try:
        return host.read(_in(row, table, "typetab"), count)
    except ReadFault:
        return b""


def _percpu(module: bytes, layout: Layout) -> tuple[int, int]:
    if "percpu" not in layout or "percpu_size" not in layout:
        return 0, 0
    start = _in(module, layout, "percpu")
    return start, start + _in(module, layout, "percpu_size")


def _strings(host: Host, address: int, last: int) -> bytes:
    """A string table up to the end of the string at `last`, or to where that may not be longer."""
    data = bytearray(host.read(address, last + 1))
    for _ in range(_LONGEST):
        if data.find(b"\0", last) >= 0:
            break
        data += host.read(address + len(data), 1)
    return bytes(data)


def _in(row: bytes, layout: Layout, name: str) -> int:
    member = layout[name]
    size = min(member.size, 8)
    return int.from_bytes(row[member.offset : member.offset + size], "little")

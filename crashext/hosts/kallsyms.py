"""The kernel's symbols out of the dump itself: its kallsyms, which need no debug info.

They are names and addresses; what an ELF symbol table knows besides (sizes, which of several
symbols at one address is the object) is made up for here. kernel/kallsyms.c reads them,
scripts/kallsyms.c writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.absent import is_respelt
from crashext.hosts.base import HostError, ReadFault, Symbol
from crashext.hosts.kallsyms_check import (
    DAMAGED,
    EXPORT,
    MAX_TABLE,
    Read,
    has_witness,
    require_agreement,
    require_exports,
    require_families,
    require_markers,
    require_names,
    require_order,
    require_packing,
    require_pairs,
    require_tokens,
    require_wholes,
)
from crashext.hosts.kallsyms_packed import TOKENS, PackedNames
from crashext.hosts.kallsyms_search import Tables, find_tables
from crashext.hosts.percpu import PERCPU_END

_MAX_SYMBOLS = 1 << 22
_MAX_TOKEN = 512  # KSYM_NAME_LEN from 6.1
_AT_ONCE = 1 << 14  # names that are unpacked together
_PAGE = 4096
_SYMBOL = re.compile(r"SYMBOL\((\w+)\)")
# struct lock_class_key is empty without lockdep: its symbol sits where the next variable begins.
_LOCK_KEY = re.compile(r"__key(\.\d+)?$")
# What linker scripts and macros put at an object's address without being one.
_MARKER = re.compile(
    r"__\w*(start|stop|begin|end)(_|$)|__sched_class_(high|low)est$|__(init|ksymtab)_|__per_cpu_load$"
    r"|_?_?[se](text|data|inittext|rodata|bss)$|__(smp_locks|retpoline_sites)$|_end$|jiffies$"
)
_GAP = 1 << 16  # bytes to the next symbol: more than the object before it has, most often
_WORD = 8
_VARIABLES = (  # from, up to, bytes that the largest has fewer than
    ("_sdata", "_edata", 1 << 30),
    ("__bss_start", "__bss_stop", 1 << 30),
    ("__start_rodata", "__end_rodata", 3 << 15),  # cpu_bit_bitmap; tables without names are larger
)
_CODE = (("_text", "_etext"), ("_sinittext", "_einittext"))
_LEAST = 7  # letters: two shorter names may well be a bit apart
_KSYMTAB = 24  # bytes: the largest struct kernel_symbol; strings without a symbol follow the last


@dataclass(frozen=True)
class Kallsyms:
    """Every symbol of the kernel image, sorted by address; of those at one the object is first."""

    names: Sequence[str]
    addresses: NDArray[np.uint64]
    by_name: Mapping[str, int]
    """Address: of several symbols of a name the global one, else the first."""
    packed: PackedNames

    @property
    def functions_only(self) -> bool:
        """Whether this kernel keeps no variables' names (no CONFIG_KALLSYMS_ALL)."""
        return "init_uts_ns" not in self.by_name

    def a_bit_apart(self, name: str, genuine: Callable[[], Collection[str]]) -> str:
        """The symbol that a flipped bit made of a variable called `name`; "" where none is.

        `genuine` gives names that another witness has.
        """
        for other in self.packed.near(name) if len(name) >= _LEAST else ():
            at = self.by_name.get(other)
            if at is None or self._is_code(at) or is_respelt(name, other):
                continue
            if has_witness(other, self.by_name) or other in genuine():
                continue
            sides = (np.searchsorted(self.addresses, np.uint64(at), s) for s in ("left", "right"))
            rows = [row for row in range(*map(int, sides)) if self.packed.name(row)[1:] == other]
            if any(self.packed.becomes(row, name) for row in rows):
                return other
        return ""

    def is_alone(self, name: str) -> bool:
        """Whether no other variable is said to be where this one is: keys of locks without lockdep
        take no room, and what marks a place is none.
        """
        at = np.uint64(self.by_name[name])
        first, last = (int(np.searchsorted(self.addresses, at, side)) for side in ("left", "right"))
        names = (self.names[row] for row in range(first, last))
        return all(n == name or _LOCK_KEY.match(n) or _MARKER.match(n) for n in names)

    def needs_witness(self, name: str) -> bool:
        """Whether a name is a variable's that no module links with: only code says where it is."""
        variable = not self._is_code(self.by_name[name])
        return variable and EXPORT + name not in self.by_name and not _MARKER.match(name)

    def _is_code(self, address: int) -> bool:
        """Not by nm's letter: 7.2 gives some variables that of functions."""
        edges = ((self.by_name.get(first), self.by_name.get(last, 0)) for first, last in _CODE)
        return any(first is not None and first <= address < last for first, last in edges)

    def below(self, end: int) -> Iterator[tuple[int, str]]:
        """(address, name) of each symbol below an address."""
        count = int(np.searchsorted(self.addresses, np.uint64(end)))
        return zip(self.addresses[:count].tolist(), self.names, strict=False)

    def at(self, address: int) -> Symbol | None:
        """The object that `address` is in: it reaches to the next symbol."""
        after = int(np.searchsorted(self.addresses, np.uint64(address), side="right"))
        if not 0 < after < len(self.names) or self.addresses[after - 1] < PERCPU_END:
            return None
        start = int(self.addresses[after - 1])
        first = int(np.searchsorted(self.addresses, np.uint64(start)))
        name, size = self.names[first], int(self.addresses[after]) - start
        if name.startswith(EXPORT):
            size = min(size, _KSYMTAB)
        if name.startswith(".L") or name == "__per_cpu_end":  # the compiler's label, the linker's
            return None
        if size >= _GAP and not self._is_large(start, size, after):
            if _MARKER.match(name):
                return None
            size = _WORD  # how far it reaches is not known: that it is there is
        return Symbol(name, start, size) if address < start + size else None

    def _is_large(self, start: int, size: int, after: int) -> bool:
        """Whether the object at `start` takes all up to the symbol in row `after`: it does so
        among variables, and not where a section ends.
        """
        for first, last, most in _VARIABLES:
            low, high = (self.by_name.get(name, 0) for name in (first, last))
            if low <= start < high and size < most:
                end = int(np.searchsorted(self.addresses, self.addresses[after], side="right"))
                row = int(np.searchsorted(self.addresses, np.uint64(start)))
                names = (self.names[row], *self.names[after:end])
                return not any(_MARKER.match(name) for name in names)
        return False


def read_kallsyms(read: Read, vmcoreinfo: Mapping[str, str]) -> Kallsyms:
    """The kernel's symbols. Raises `HostError`, without naming a cure, where they are not found or
    cannot be right.
    """
    known = {m[1]: _hex(v) for k, v in vmcoreinfo.items() if (m := _SYMBOL.fullmatch(k))}
    tables = _tables(read, known)
    if tables is None:
        raise HostError("its own symbols (kallsyms) are not found")
    try:
        names, behind, packed = _names(read, tables)
        stext = names.index("T_stext")
        addresses = _addresses(read, tables, len(names), stext, known.get("_stext", 0))
    except (ReadFault, ValueError, IndexError, OverflowError) as error:
        raise HostError("its own symbols (kallsyms) cannot be read") from error
    if (addresses[1:] < addresses[:-1]).any():  # sort_symbols() of scripts/kallsyms.c
        raise HostError(f"{DAMAGED}: their addresses are in disorder")
    found = _by_address(names, addresses, packed)
    require_names(found.by_name)
    if not found.functions_only:
        require_agreement(found.by_name, known)
        require_exports(read, found.by_name)
        require_families(found.by_name)
        require_wholes(found.by_name)
        require_pairs(found.names, found.addresses)
    order = _order(read, len(names), behind, found.by_name)
    if not order:
        return found
    require_order(order, [name[1:] for name in names])
    return replace(found, packed=packed.in_order(order))


def _hex(text: str) -> int:
    return int(text, 16) if re.fullmatch("[0-9a-f]{1,16}", text) else 0


def _tables(read: Read, known: Mapping[str, int]) -> Tables | None:
    found = Tables(*(known.get(f"kallsyms_{name}", 0) for name in Tables.__dataclass_fields__))
    if found.names and found.offsets:  # 6.0 (f09bddbd8661)
        return found
    return find_tables(
        lambda address, size: _with_holes(read, address, size),
        known.get("_stext", 0),
        known.values(),
    )


def _with_holes(read: Read, address: int, size: int) -> bytes:
    """Memory, with zeros for what the dump lacks."""
    try:
        return read(address, size)
    except ReadFault:
        if size <= _PAGE:
            return bytes(size)
    half = size // 2
    return _with_holes(read, address, half) + _with_holes(read, address + half, size - half)


def _order(read: Read, count: int, behind: bytes, by_name: Mapping[str, int]) -> bytes:
    """The kernel's own order of names: behind the markers (6.1.y), or at a symbol of its own; empty
    before, and where that page is not in the dump.
    """
    if len(behind) >= 3 * count:
        return behind[: 3 * count]
    table = by_name.get("kallsyms_seqs_of_names")
    try:
        return b"" if table is None else read(table, 3 * count)
    except ReadFault:
        return b""


def _names(read: Read, tables: Tables) -> tuple[list[str], bytes, PackedNames]:
    """Each symbol in the table's order: the letter that nm prints, and the name. What is behind
    the markers comes with them, and the names as they are packed.
    """
    count = int.from_bytes(read(tables.num_syms, 4), "little")
    if not 0 < count <= _MAX_SYMBOLS or not 0 < tables.token_table - tables.names <= MAX_TABLE:
        raise ValueError(count)
    index = np.frombuffer(read(tables.token_index, 2 * TOKENS), "<u2").tolist()
    text = read(tables.token_table, index[-1] + _MAX_TOKEN)
    tokens = [text[at : text.index(b"\0", at)].decode("ascii") for at in index]
    packing = require_tokens(tokens, index)
    data = read(tables.names, tables.token_table - tables.names)  # markers are between
    places, at = [], 0
    for _ in range(count):
        places.append(at)
        length = data[at]
        if length & 0x80:  # 6.1 (73bbb94466fd), where none was as long before
            length = 1 + (length & 0x7F | data[at + 1] << 7)
        at += 1 + length
    if at > len(data):
        raise ValueError(at)
    aligned = tables.names + at + 3 & ~3
    behind = require_markers(places, data[aligned - tables.names :])
    packed = PackedNames(data[:at], np.array(places, np.int32), packing)
    codes = packed.codes()
    require_packing(packing, codes)
    behind = behind[(tables.token_table - len(behind)) % 8 and 4 :]
    return _unpacked(codes, np.array(places), tokens), behind, packed


def _unpacked(codes: NDArray[np.uint16], places: NDArray[np.int64], tokens: list[str]) -> list[str]:
    """Every packed name, whose length is at its place: all of a piece at once."""
    texts = [token.encode() for token in (*tokens, "\n", "")]
    every = np.frombuffer(b"".join(texts), np.uint8)
    lengths = np.array([len(text) for text in texts], np.int32)
    begins = np.cumsum(lengths, dtype=np.int32) - lengths
    pieces = []
    edges = [*places[::_AT_ONCE].tolist(), len(codes)]
    for first, last in pairwise(edges):
        piece = codes[first:last]
        long = lengths[piece]
        ends = np.cumsum(long, dtype=np.int32)
        letters = np.repeat(begins[piece] - ends + long, long)
        letters += np.arange(len(letters), dtype=np.int32)
        pieces.append(every[letters].tobytes())
    return b"".join(pieces).decode("ascii").split("\n")[1:]


def _addresses(
    read: Read, tables: Tables, count: int, stext: int, where: int
) -> NDArray[np.uint64]:
    """Addresses in the table's order, in which the row `stext` must be at `where`."""
    offsets = np.frombuffer(read(tables.offsets, 4 * count), "<i4")
    wide = offsets.astype(np.int64)
    if not tables.relative_base:  # 7.x: each from where it is itself
        places = np.uint64(tables.offsets) + 4 * np.arange(count, dtype=np.uint64)
        forms = [places + wide.astype(np.uint64)]
    else:
        base = np.uint64(int.from_bytes(read(tables.relative_base, 8), "little"))
        # KALLSYMS_ABSOLUTE_PERCPU, x86-64 until 6.14: what is not negative is an address itself.
        below = base + (-1 - wide).astype(np.uint64)
        forms = [np.where(wide >= 0, wide.astype(np.uint64), below), base + offsets.view("<u4")]
        forms.append(_whole_addresses(read, tables.num_syms, count))
    found = next((form for form in forms if int(form[stext]) == where), None)
    if found is None:
        raise HostError(f"{DAMAGED}: _stext is not where VMCOREINFO says")
    return found


def _whole_addresses(read: Read, end: int, count: int) -> NDArray[np.uint64]:
    """What kernels before 4.6 (2213e9a66bb8) have instead of offsets; zeros where nothing is."""
    try:
        return np.frombuffer(read(end - 8 * count, 8 * count), "<u8").astype(np.uint64)
    except ReadFault:
        return np.zeros(count, np.uint64)


def _by_address(
    names: Sequence[str], addresses: NDArray[np.uint64], packed: PackedNames
) -> Kallsyms:
    """Of kinds and names in the order of their addresses."""
    both = list(names)
    edges = np.flatnonzero(addresses[1:] != addresses[:-1]) + 1
    edges = np.concatenate(([0], edges, [len(addresses)]))
    several = np.flatnonzero(np.diff(edges) > 1)
    for begin, end in zip(edges[several].tolist(), edges[several + 1].tolist(), strict=True):
        both[begin:end] = sorted(both[begin:end], key=_worth)
    kinds, alone = [symbol[:1] for symbol in both], [symbol[1:] for symbol in both]
    values = addresses.tolist()
    by_name = dict(zip(reversed(alone), reversed(values), strict=True))
    is_global = "".join(kinds).encode("ascii", "replace")
    rows = np.flatnonzero(np.frombuffer(is_global, np.uint8) < ord("a")).tolist()
    by_name |= {alone[row]: values[row] for row in rows}
    return Kallsyms(alone, addresses, by_name, packed)


def _worth(symbol: str) -> tuple[bool, bool, bool, str]:
    """Sorts the object itself before what shares its address."""
    name = symbol[1:]
    return (
        _LOCK_KEY.match(name) is not None,
        _MARKER.match(name) is not None,
        symbol[:1].islower(),
        name,
    )

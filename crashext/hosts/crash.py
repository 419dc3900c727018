"""A crash session: its memory, symbols and debug info, asked for through the bridge.

Reads of the direct map are checked against the pages that the dump file holds before crash is
asked: a read that fails inside PyKdump leaks its buffer there, so it must not be how a hole is
found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crashext.hosts import crash_text
from crashext.hosts.base import (
    Addresses,
    Bytes,
    HostError,
    Info,
    Layout,
    Mask,
    Module,
    ReadFault,
    Symbol,
    Types,
    coalesce,
)
from crashext.hosts.bridge import Bridge, Refused
from crashext.hosts.crash_mod import knows_files, module_files
from crashext.hosts.crash_sys import dump_file, sys_fields
from crashext.hosts.crash_tables import untranslatable
from crashext.hosts.directmap import NO_MAP, direct_map
from crashext.hosts.dumpfile import DumpFile, examined
from crashext.hosts.keeping import Kept
from crashext.hosts.percpu import PERCPU_END, percpu_table, symbol_in
from crashext.hosts.readers import Reader, open_readers
from crashext.hosts.recentpages import RecentPages
from crashext.hosts.tags import PointerTags, pointer_tags
from crashext.hosts.vmcoreinfo import kept
from crashext.incrash import crashext_wire as wire

if TYPE_CHECKING:
    from crashext.hosts.drgn import DrgnHost
    from crashext.hosts.physical import PhysicalMemory

_PAGE = 4096
_RUN = 1 << 20
_FEW = 16  # addresses
_BULK = 1 << 18  # bytes from which a read goes to the dump file


class CrashHost:
    """`Host` over the bridge. Raises `HostError` when crash is gone."""

    def __init__(self, bridge: Bridge, kept: Kept) -> None:
        # Those of the host before this one, which they keep alive.
        CrashHost.symbol_at.cache_clear()
        CrashHost.address_of.cache_clear()
        CrashHost.modules.cache_clear()
        CrashHost.layout.cache_clear()
        CrashHost.enumerator.cache_clear()
        self.kept = kept
        self._bridge = bridge
        self._present = np.zeros((0, 2), np.uint64)
        self._direct = NO_MAP
        self._tags: PointerTags | None = None
        self._lost = np.zeros((0, 2), np.uint64)
        self._memory: PhysicalMemory | None = None
        self._pages = RecentPages(self._whole_pages)
        self._types: Types | None = None
        self._sys = sys_fields(self.crash_command("sys"))
        dump = dump_file(self._sys)
        self._dump, self._still = Path(dump), bool(dump)
        self.jobs = 1
        self._file = examined(self._dump) if dump else DumpFile("live", None)
        notes = self._vmcoreinfo()
        self._info = Info(
            release=self._sys.get("RELEASE", ""),
            arch=self._sys.get("MACHINE", "").split(" ")[0],
            page_size=int(notes.get("PAGESIZE", _PAGE)),
            live=not dump,
            source=self._dump.name if dump else "/proc/kcore",
            vmcoreinfo=notes,
            damage=self._file.damage,
        )
        self._tags = pointer_tags(self._info, self.address_of)
        self._watch_direct_map()

    def prefer(self, types: Types) -> None:
        """Ask `types` before gdb, where a question costs up to 30 ms; before the first question."""
        self._types = types

    def moved_on(self, since: str | None = None) -> bool:
        """Whether crash knows other modules, or other symbols of them, than it did, or `since`."""
        return self._ask_modules() != (self._modules_text if since is None else since)

    @property
    def known_modules(self) -> str | None:
        """What crash last said of them; None where nobody asked."""
        text: str | None = self.__dict__.get("_modules_text")
        return text

    def debug_files(self) -> list[Path]:
        """The debug files that crash itself opened, as `sys` and `mod` name them."""
        names = [self._sys.get(key, "") for key in ("KERNEL", "DEBUG KERNEL", "DEBUGINFO")]
        names += map(str, module_files(self._modules_text).values())
        paths = (Path(name.split("  ")[0].strip()) for name in names if name)
        return [path for path in paths if path.is_file()]

    def _vmcoreinfo(self) -> dict[str, str]:
        """The note's lines, from where the kernel itself keeps them."""
        data, size = self.address_of("vmcoreinfo_data"), self.address_of("vmcoreinfo_size")
        if data is None or size is None:
            return {}
        try:
            return kept(self.read, data, size)
        except ReadFault:
            return {}

    def _watch_direct_map(self) -> None:
        """From now on, know which direct-map pages the dump lacks without asking crash."""
        if self._file.present is None:
            return
        self._direct = direct_map(self._info, self._variable)
        self._present = np.array(self._file.present, np.uint64).reshape(-1, 2)
        self._watch_page_tables()

    def _watch_page_tables(self) -> None:
        """From now on, know where crash would miss a page table, and jump to its prompt."""
        names = ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir")
        top = next((a for a in map(self.address_of, names) if a is not None), None)
        if top is None or self._info.arch != "x86_64":
            return
        try:
            first = np.frombuffer(self.read(top, _PAGE), np.uint64).reshape(1, -1)
        except ReadFault:
            return

        def read(tables: Addresses) -> NDArray[np.uint64]:
            rows, ok = self.read_many(tables + np.uint64(self._direct.start), _PAGE)
            rows[~ok] = 0
            return rows.view(np.uint64)

        missing = untranslatable(
            first,
            read,
            lambda physical: self._held(physical + np.uint64(self._direct.start), _PAGE),
            self._info.vmcoreinfo.get("NUMBER(pgtable_l5_enabled)") == "1",
            (self._direct.start, self._direct.stop),
        )
        self._lost = np.array(missing, np.uint64).reshape(-1, 2)

    def _variable(self, name: str) -> int | None:
        symbol = self.address_of(name)
        try:
            return None if symbol is None else int.from_bytes(self.read(symbol, 8), "little")
        except ReadFault:
            return None

    def _held(self, addresses: Addresses, size: int) -> Mask:
        """False where a read would need a page, or a page table, that is not in the dump."""
        if not self._direct or not len(self._present):
            return np.ones(len(addresses), np.bool_)
        held = self._direct.held(self._present, addresses, size)
        for start, end in self._lost:
            held &= (addresses + np.uint64(size) <= start) | (addresses >= end)
        return held

    def info(self) -> Info:
        return self._info

    def read(self, address: int, size: int) -> bytes:
        try:
            data = self._read(address, size)
        except ReadFault as fault:
            raise self._info.fault(fault.address) from fault
        return data if self._tags is None else self._tags.off_bytes(address, data)

    def _whole_pages(self, pages: list[int]) -> list[bytes | None]:
        """Of a dump: a running kernel's change, and are asked for one by one."""
        held = self._held(np.array(pages, np.uint64), _PAGE).tolist()
        there = [page for page, ok in zip(pages, held, strict=True) if ok and self._still]
        found = self._bridge.runs([(page, _PAGE) for page in there]) if there else []
        data = dict(zip(there, found, strict=True))
        return [data.get(page) for page in pages]

    def _read(self, address: int, size: int) -> bytes:
        if address >= 0 and address + size < 1 << 64:
            piece = self._pages.read(address, size)
            if piece is not None:
                return piece
        where = np.array([address & ((1 << 64) - 1)], np.uint64)
        if not 0 <= address < 1 << 64 or not self._held(where, size)[0]:
            raise ReadFault(address)
        if size >= _BULK:
            bulk = self._bulk(address, size)
            if bulk is not None:
                return bulk
        return self._bridge.read(address, size)

    def _bulk(self, address: int, size: int) -> bytes | None:
        """A long read of the direct map from the dump file itself: the bridge need not carry it."""
        if address not in self._direct:
            return None
        physical = self._direct.physical(address)
        if self._memory is None:
            from crashext.hosts.physical import PhysicalMemory  # imports drgn: a third of a second

            self._memory = PhysicalMemory(self._dump)
        return self._memory.read(physical, size)

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        unique, inverse = np.unique(addresses, return_inverse=True)
        data = np.zeros((len(unique), size), np.uint8)
        ok = np.zeros(len(unique), np.bool_)
        if len(unique) <= _FEW:
            for row, piece in enumerate(self._pages.many(unique.tolist(), size)):
                if piece is not None:
                    data[row], ok[row] = np.frombuffer(piece, np.uint8), True
        wanted = np.flatnonzero(self._held(unique, size) & ~ok)
        runs = coalesce(unique[wanted], size, _RUN)
        while runs:
            batch: list[tuple[int, int]] = []
            total = 0
            while runs and (
                not batch or total + (runs[-1][1] - runs[-1][0]) * size <= wire.MAX_READ
            ):
                start, end = runs.pop()
                batch.append((start, end))
                total += (end - start) * size
            answers = self._bridge.runs(
                [(int(unique[wanted[a]]), (b - a) * size) for a, b in batch]
            )
            for (start, end), answer in zip(batch, answers, strict=True):
                if answer is not None:
                    rows = wanted[start:end]
                    data[rows] = np.frombuffer(answer, np.uint8).reshape(-1, size)
                    ok[rows] = True
                elif end - start > 1:  # a hole somewhere: find it without big reads that fail
                    step = max(1, min((end - start) // 2, _PAGE // size))
                    runs += [(i, min(i + step, end)) for i in range(start, end, step)]
        if self._tags is not None:
            self._tags.off_rows(unique, data)
        return data[inverse], ok[inverse]

    def present(self) -> list[tuple[int, int]] | None:
        return None if self._file.present is None else list(self._file.present)

    def readers(self, count: int) -> list[Reader]:
        tagged = self._tags is not None
        return [] if tagged else open_readers(self._dump, self._file, self._direct.behind, count)

    def registers(self) -> Sequence[tuple[int, ...]]:
        return self._file.registers

    @cached_property
    def _shell(self) -> DrgnHost | None:
        """The same dump as a shell opens it: it names places and their lines as reports there do,
        and knows how long functions are, which crash does not. None where drgn cannot open it."""
        if self._info.live:
            return None
        files = self.debug_files()
        if len(files) == 1 and self._types is not None and self._types.known:
            from crashext.hosts.unindexed import open_unindexed

            found = open_unindexed(self._dump, files[0], self._types)
            if found is not None:
                return found
        from crashext.hosts.drgn import open_core

        try:
            return open_core(self._dump, files)
        except HostError:
            return None

    @cached_property
    def _percpu_symbols(self) -> list[Symbol]:
        found = crash_text.percpu_symbols(self._symbol_list)
        return percpu_table(found, self.address_of("__per_cpu_end") or 0)

    @lru_cache(maxsize=4096)  # noqa: B019  (one host a process)
    def symbol_at(self, address: int) -> Symbol | None:
        if self._shell is not None:
            return self._shell.symbol_at(address)
        if address < PERCPU_END:
            return symbol_in(self._percpu_symbols, address)
        found = self._bridge.nearest_symbol(address)
        if found is None or found[0].startswith(".L"):  # a label that the compiler made up
            return None
        name, offset = found
        if crash_text.is_lock_key(name):
            name = crash_text.beside(self._symbol_list, address - offset) or name
        module = next(
            (m.name for m in self.modules() if any(a <= address < b for a, b in m.ranges)), ""
        )
        return Symbol(name, address - offset, 0, module)

    @cached_property
    def _symbol_list(self) -> str:
        return self.crash_command("sym -l")

    @lru_cache(maxsize=4096)  # noqa: B019
    def address_of(self, name: str) -> int | None:
        return self._bridge.address_of(name)

    @lru_cache(maxsize=1)  # noqa: B019
    def modules(self) -> Sequence[Module]:
        return crash_text.modules(self._modules_text)

    def module_files(self) -> Mapping[str, Path]:
        files = module_files(self._modules_text)
        return {name: path for name, path in files.items() if path.is_file()}

    def debug_folders(self) -> Sequence[Path]:
        beside = [self._dump.parent] if self._file.present is not None else []
        return list(dict.fromkeys([*beside, *(path.parent for path in self.debug_files())]))

    def _ask_modules(self) -> str:
        try:
            return self.crash_command("mod")
        except Refused:
            return ""  # "mod: no modules loaded" is an error to crash

    _modules_text = cached_property(_ask_modules)

    @cached_property
    def _gdb_knows_more(self) -> bool:
        """Whether `mod -s` brought types that the kernel's own memory need not have."""
        return knows_files(self._modules_text)

    @cache  # noqa: B019
    def layout(self, type_name: str) -> Layout | None:
        if self._types is not None and self._types.known:
            found = self._types.layout(type_name)
            if found is not None or not self._gdb_knows_more:
                return found
        return self.debug_layout(type_name)

    def debug_layout(self, type_name: str) -> Layout | None:
        """gdb's answer."""
        return self._bridge.layout(type_name)

    @cache  # noqa: B019
    def enumerator(self, name: str) -> int | None:
        if self._types is not None and self._types.known:
            return self._types.enumerator(name)
        return self.debug_enumerator(name)

    def debug_enumerator(self, name: str) -> int | None:
        """gdb's answer."""
        return self._bridge.enumerator(name)

    def crash_command(self, line: str) -> str:
        """Output of a crash command; raises `HostError` with crash's words when it fails."""
        return self._bridge.command(line)

    def source_of(self, address: int) -> list[tuple[str, str]]:
        if self._shell is not None:
            return self._shell.source_of(address)
        try:
            found = crash_text.source_line(self.crash_command(f"sym {address:x}"))
        except Refused:
            return []
        # gdb knows the innermost line alone: kmalloc()'s own, where that is inlined.
        return [("", found)] if found and "include/" not in found else []

    def evaluate(self, expression: str) -> int | None:
        """Value of a C expression, by gdb inside crash. Nothing in it may assign or call."""
        return self._bridge.evaluate(expression)

"""A vmcore, or the running kernel, through drgn. Any dump format that drgn opens."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import drgn
import numpy as np

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.arm64 import untagged
from crashext.hosts.base import (
    Addresses,
    Bytes,
    HostError,
    Info,
    KernelMissing,
    Layout,
    Mask,
    Module,
    Symbol,
    Types,
    coalesce,
    cut,
)
from crashext.hosts.debuginfod import by_hand
from crashext.hosts.directmap import NO_MAP, direct_map
from crashext.hosts.drgn_layouts import layout_of
from crashext.hosts.drgn_modules import LoadedSymbols, names_something
from crashext.hosts.drgn_plugins import no_prompt, uninterrupted
from crashext.hosts.dumpfile import DumpFile, build_id, examine
from crashext.hosts.modulelist import module_list
from crashext.hosts.modulesymbols import FunctionTypes
from crashext.hosts.nodebuginfo import NoDebugInfo
from crashext.hosts.percpu import PERCPU_END, percpu_table, symbol_in
from crashext.hosts.readers import Reader, open_readers
from crashext.hosts.symboltable import Symbols, SymbolTable, elf_symbols
from crashext.hosts.tags import pointer_tags
from crashext.hosts.unusual import open_unusual

_READ_LIMIT = 1 << 20  # bigger pieces gain nothing (measured 2.7 GB/s at 1 MiB on an ELF dump)
_GAP = 512  # bytes: copying them costs less than another read
KCORE = Path("/proc/kcore")
KERNEL_MISSING = "the kernel's own variables are in the missing part"
GLOBAL = drgn.SymbolBinding.GLOBAL


class DrgnHost:
    """`Host` over a `drgn.Program` whose debug info is loaded."""

    has_debug_info = True

    def __init__(
        self,
        program: drgn.Program,
        source: str,
        core: Path | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        """`core` is the dump, where the program does not know it; `folders` are where the debug
        files are that the user gave.
        """
        self._program = program
        self._source = source
        self.jobs = 1
        self._of_modules = LoadedSymbols(self._functions_of)
        self._types: Types | None = None
        # Not functools.cache, which would hold this host, and the dump, for good.
        self._addresses: dict[str, int | None] = {}
        self._layouts: dict[str, Layout | None] = {}
        self._file = DumpFile("live", None)
        if program.core_dump_path is not None:
            core = Path(str(program.core_dump_path))
        self._core = core
        self._folders = ([] if core is None else [core.parent]) + list(folders)
        if core is not None and not program.flags & drgn.ProgramFlags.IS_LIVE:
            self._file = examine(core)
        vmcoreinfo = program["VMCOREINFO"].string_().decode("ascii", "replace")
        fields = dict(line.split("=", 1) for line in vmcoreinfo.splitlines() if "=" in line)
        platform = program.platform
        assert platform is not None  # a Linux kernel program always has one
        self._info = Info(
            release=fields.get("OSRELEASE", ""),
            arch=platform.arch.name.lower(),
            page_size=int(fields.get("PAGESIZE", "4096")),
            live=bool(program.flags & drgn.ProgramFlags.IS_LIVE),
            source=source,
            vmcoreinfo=fields,
            damage=self._file.damage,
        )
        self._require_matching_debug_info()
        self._tagged = self._info.arch == ARM64
        self._direct = NO_MAP
        if not self._info.live:
            self._direct = direct_map(self._info, self._variable)
        self._tags = pointer_tags(self._info, self.address_of)

    def _require_matching_debug_info(self) -> None:
        """The kernel's own release string, read through the debug info, must be the dump's."""
        try:
            name = self._program["init_uts_ns"].name.release.string_().decode("ascii", "replace")
        except (drgn.FaultError, LookupError, AttributeError) as error:
            if self._info.damage:
                raise KernelMissing(self._info, KERNEL_MISSING) from error
            raise HostError(
                f"the debug info does not fit {self._source}: init_uts_ns cannot be read; "
                f"give the vmlinux of kernel {self._info.release or '?'} with -s"
            ) from error
        if self._info.release and name != self._info.release:
            raise HostError(
                f"the debug info does not fit {self._source}: it is kernel {self._info.release}, "
                "give its vmlinux with -s"
            )

    def _variable(self, name: str) -> int | None:
        address = self.address_of(name)
        try:
            return None if address is None else int(self._program.read_u64(address))
        except drgn.FaultError:
            return None

    def _memory(self, address: int, size: int) -> bytes:
        """Read a dump's direct map as physical memory: no page tables to walk, and none to miss.

        Raises what drgn raises.
        """
        if address in self._direct:
            data = bytes(self._program.read(self._direct.physical(address), size, physical=True))
        else:
            data = bytes(self._program.read(address, size))
        return data if self._tags is None else self._tags.off_bytes(address, data)

    def info(self) -> Info:
        return self._info

    def read(self, address: int, size: int) -> bytes:
        if self._tagged:
            address = int(untagged(np.array([address % (1 << 64)], np.uint64))[0])
        try:
            return self._memory(address, size)
        except (drgn.FaultError, ValueError, OverflowError) as error:
            raise self._info.fault(address) from error

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        if self._tagged:
            addresses = untagged(addresses)
        unique, inverse = np.unique(addresses, return_inverse=True)
        data = np.zeros((len(unique), size), np.uint8)
        ok = np.zeros(len(unique), np.bool_)
        todo = coalesce(unique, size, _READ_LIMIT, _GAP)[::-1]
        while todo:
            start, end = todo.pop()
            wanted = unique[start:end]
            try:
                piece = self._memory(int(wanted[0]), int(wanted[-1] - wanted[0]) + size)
            except (drgn.FaultError, ValueError, OverflowError):
                if end - start > 1:
                    middle = (start + end) // 2
                    todo += [(middle, end), (start, middle)]
                continue
            data[start:end] = cut(piece, wanted, size)
            ok[start:end] = True
        return data[inverse], ok[inverse]

    def readers(self, count: int) -> list[Reader]:
        if self._core is None or self._tags is not None:
            return []
        return open_readers(self._core, self._file, self._direct.behind, count)

    def present(self) -> list[tuple[int, int]] | None:
        return None if self._file.present is None else list(self._file.present)

    def registers(self) -> Sequence[tuple[int, ...]]:
        return self._file.registers

    @cached_property
    def _symbols(self) -> Symbols:
        try:
            kernel = self._program.main_module()
        except LookupError:
            kernel = None
        if kernel is not None and kernel.debug_file_path:
            bias, ranges = kernel.debug_file_bias or 0, kernel.address_ranges or ()
            found = elf_symbols(Path(kernel.debug_file_path), bias, ranges)
            if found is not None:
                return found
        known = self._program.symbols()
        places = np.array([(s.address, s.size) for s in known], np.uint64).reshape(-1, 2)
        return Symbols(places[:, 0], places[:, 1], [s.name for s in known])

    @cached_property
    def _percpu_symbols(self) -> list[Symbol]:
        """Per-CPU variables by offset: their addresses begin at 0 and are in no module's range."""
        end = self.address_of("__per_cpu_end") or 0
        return percpu_table(self._symbols.below(end), end)

    @cached_property
    def _kernel_symbols(self) -> SymbolTable:
        return SymbolTable(self._symbols)

    @cached_property
    def _module_areas(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of each area, in order."""
        return sorted((a, b, m.name) for m in self.modules() for a, b in m.ranges)

    def _module_at(self, address: int) -> str:
        at = bisect_right(self._module_areas, address, key=lambda area: area[0]) - 1
        if at < 0:
            return ""
        _, end, name = self._module_areas[at]
        return name if address < end else ""

    def symbol_at(self, address: int) -> Symbol | None:
        if address < PERCPU_END:
            return symbol_in(self._percpu_symbols, address)
        module = self._module_at(address)
        if not module and (named := self._kernel_symbols.at(address)):
            return Symbol(named[2], named[0], named[1])
        try:
            # Those of debug files.
            found = [
                (s.name, s.address, s.size, s.binding == GLOBAL)
                for s in self._program.symbols(address)
            ]
        except (LookupError, ValueError, OverflowError, drgn.FaultError):
            return None
        if module:
            found += [
                (s.symbol.name, s.symbol.address, s.symbol.size, s.is_global)
                for s in self._of_modules.at(self, module, address, self._module_list)
            ]
        # Aliases share an address: the widest is the object itself (a lock_class_key has no size
        # where lockdep is off), then what other files see, then the name breaks the tie.
        best = min(
            (s for s in found if names_something(s[0], s[2])),
            key=lambda s: (-s[2], not s[3], s[0]),
            default=None,
        )
        return None if best is None else Symbol(*best[:3], module)

    def source_of(self, address: int) -> list[tuple[str, str]]:
        try:
            found = self._program.source_location(address)
        except (LookupError, ValueError, drgn.FaultError):
            return []
        return [(s.name() or "", f"{s.filename}:{s.line}") for s in found if s.filename]

    def address_of(self, name: str) -> int | None:
        # A fifth of a millisecond each, and the same few variables are asked for at every call.
        if name not in self._addresses:
            self._addresses[name] = self._look_up(name)
        return self._addresses[name]

    def _look_up(self, name: str) -> int | None:
        try:
            address = int(self._program.symbol(name).address)
        except LookupError:
            return self._of_modules.named(name)
        return self._moved(address) if name == "_end" else address

    def _moved(self, end: int) -> int:
        """The kernel's `_end`, by KASLR's offset if drgn did not add that.

        drgn 0.3 adds it only to symbols inside the kernel's range (elf_symbol_address() in
        elf_symtab.c). `_end` is the first address after it, unless .init.scratch follows, which
        takes CONFIG_AMD_MEM_ENCRYPT.
        """
        try:
            kernel = self._program.main_module()
        except LookupError:
            return end
        offset = kernel.debug_file_bias or kernel.loaded_file_bias or 0
        ends = [stop for _, stop in kernel.address_ranges or ()]
        return end + offset if end + offset in ends else end

    def modules(self) -> Sequence[Module]:
        return self._modules

    @cached_property
    def _modules(self) -> tuple[Module, ...]:
        return tuple(module for _, module in self._module_list)

    @cached_property
    def _module_list(self) -> list[tuple[int, Module]]:
        """By address. drgn leaves out one whose notes are not in the dump."""
        return sorted(module_list(self), key=lambda found: found[1].ranges)

    def _functions_of(self, module: str) -> Collection[str]:
        types = self._types
        return types.module_functions(module) if isinstance(types, FunctionTypes) else ()

    def doubts(self) -> list[str]:
        return [
            f"the symbols of {module} in this kernel's memory are damaged ({why}): "
            "what is in it has an address and no name"
            for module, why in self._of_modules.damaged()
        ]

    def module_files(self) -> Mapping[str, Path]:
        return {
            m.name: Path(m.debug_file_path)
            for m in self._program.modules()
            if isinstance(m, drgn.RelocatableModule) and m.debug_file_path
        }

    @property
    def debug_file(self) -> Path | None:
        """The kernel's."""
        try:
            path = self._program.main_module().debug_file_path
        except LookupError:
            return None
        return None if path is None else Path(path)

    def debug_folders(self) -> Sequence[Path]:
        own = [] if self.debug_file is None else [self.debug_file.parent]
        return list(dict.fromkeys([*self._folders, *own]))

    def prefer(self, types: Types) -> None:
        """Ask `types` before the debug info; before the first question."""
        self._types = types

    def layout(self, type_name: str) -> Layout | None:
        if type_name not in self._layouts:
            first = None if self._types is None else self._types.layout(type_name)
            self._layouts[type_name] = first or self.debug_layout(type_name)
        return self._layouts[type_name]

    def debug_layout(self, type_name: str) -> Layout | None:
        return layout_of(self._program, type_name)

    def enumerator(self, name: str) -> int | None:
        first = None if self._types is None else self._types.enumerator(name)
        return self.debug_enumerator(name) if first is None else first

    def debug_enumerator(self, name: str) -> int | None:
        try:
            return int(self._program.constant(name).value_())
        except LookupError:
            return None


def open_core(core: Path, debug: Sequence[Path]) -> DrgnHost:
    """Open a dump with its debug files (the first is usually vmlinux; none: by build ID)."""
    file = examine(core)
    logging.getLogger("drgn").setLevel(logging.CRITICAL)  # what is wrong is said in our own words
    with uninterrupted():
        program = drgn.Program()
    why = f"{core} is a core dump, but not of a Linux kernel"
    try:
        if not file.unsafe:
            with no_prompt():
                program.set_core_dump(str(core))
    except Exception as error:  # libkdumpfile's errors arrive as bare Exception
        said = _one_line(error)
        # libkdumpfile speaks of its own functions, where names are missing from a header.
        why = f"cannot open dump {core}: "
        why += "its header names no kernel" if said.startswith("kdump_") else said
    if not program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        found = open_unusual(core, file)
        if found is None:
            raise HostError(f"{why} (no VMCOREINFO note, and none is found in its memory)")
        program = found
    _load_debug_info(program, debug)
    return DrgnHost(program, core.name, core, [path.parent for path in debug])


def open_live(debug: Sequence[Path]) -> DrgnHost:
    """The running kernel, through /proc/kcore; needs root."""
    logging.getLogger("drgn").setLevel(logging.CRITICAL)
    with uninterrupted():
        program = drgn.Program()
    try:
        with no_prompt():
            program.set_kernel()
    except PermissionError as error:
        raise HostError(f"cannot read {KCORE}: run as root to look at this kernel") from error
    except FileNotFoundError as error:
        raise HostError(f"this kernel has no {KCORE}: try --procfs /proc") from error
    except Exception as error:  # drgn raises bare Exception for what it has no class for
        raise HostError(f"cannot look at the running kernel: {_one_line(error)}") from error
    _load_debug_info(program, debug)
    return DrgnHost(program, str(KCORE), folders=[path.parent for path in debug])


def _load_debug_info(program: drgn.Program, debug: Sequence[Path]) -> None:
    identities = {path: build_id(path) for path in debug}
    by_hand(program)
    try:
        program.load_debug_info([str(path) for path in debug], main=True)
    except drgn.MissingDebugInfoError as error:
        missing = NoDebugInfo(program)
        if not debug:
            raise missing from error
        given = ", ".join(f"{p} (build ID {i or 'none'})" for p, i in identities.items())
        raise HostError(
            f"{given} does not belong to this dump: it needs the vmlinux of {missing.kernel}"
        ) from error
    except Exception as error:  # drgn raises bare Exception for what it has no class for
        raise HostError(f"cannot load debug info: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

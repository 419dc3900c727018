"""Types of modules whose BTF a dump does not carry, from their debug files.

A file belongs to a loaded module if its build ID is the one that the kernel notes of the module.
Sources: include/linux/module.h and kernel/module/sysfs.c (notes_attrs; 4.5 to 7.2).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from crashext.hosts.base import DebugFilesHost, Host, HostError, ReadFault, UnknownLayout
from crashext.hosts.dumpfile import build_id
from crashext.hosts.modulelist import module_list
from crashext.kernel.access import u32, u64
from crashext.kernel.btf import Btf
from crashext.kernel.btf_memory import read_blobs
from crashext.kernel.foreign import foreign_modules

_STORES = ("/usr/lib/debug/lib/modules", "/usr/lib/debug/usr/lib/modules", "/lib/modules")
_BUILD_IDS = "/usr/lib/debug/.build-id"
_SUFFIXES = (".ko.debug", ".ko")
_MOST_FILES = 1 << 16
_MOST_NOTES = 8
_MAX_NOTE = 4096
_NT_GNU_BUILD_ID = 3
MOST_NAMED = 8
"""Modules with a debug file that somebody named, all of which are read at once."""


class KernelTypes:
    """The types of one kernel and of its modules: what the dump carries, and, for modules that
    carry none, what debug files tell. Those are read for modules of interest only.
    """

    def __init__(self, host: Host) -> None:
        self._modules = ModuleTypes(host)
        self._blobs = read_blobs(host)
        self._read: dict[str, bytes] = {}
        self._btf: Btf | None = None
        try:
            if self._blobs is not None:
                self._btf = Btf(*self._blobs)
        except ValueError:
            self._blobs = None

    @cached_property
    def _kernel(self) -> Btf | None:
        """The kernel's own alone, which modules' types are written over."""
        return None if self._blobs is None else Btf(self._blobs[0])

    @cached_property
    def _eager(self) -> set[str]:
        return self._modules.eager()

    def with_modules(self, wanted: Iterable[str] = ()) -> Btf | None:
        """All types, those of `wanted` modules among them where they can be had. Numbers of types
        stay what they were; None where the kernel carries no BTF itself.
        """
        if self._blobs is None or self._btf is None:
            return None
        missing = sorted((self._eager | set(wanted)) - set(self._btf.modules))
        found = [(name, self._modules.blob(name, lambda: self._kernel)) for name in missing]
        fresh = {name: blob for name, blob in found if blob is not None}
        if fresh:
            self._read.update(fresh)
            kernel, modules = self._blobs
            self._btf = Btf(kernel, (*modules, *self._read.items()))
        return self._btf

    def with_all(self) -> Btf | None:
        """Types of every module of which a debug file is known, too."""
        return self.with_modules(self._modules.every())


class ModuleTypes:
    """The modules of one kernel that have a debug file; each is read when it is first wanted."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._read: dict[str, bytes | None] = {}

    @cached_property
    def named(self) -> dict[str, Path]:
        """Debug files that the user, or the tool, has for modules."""
        host = self._host
        return dict(host.module_files()) if isinstance(host, DebugFilesHost) else {}

    def eager(self) -> set[str]:
        """Modules whose types are wanted whatever is asked: those from outside the kernel's tree,
        and those that somebody took the trouble to name a file of.
        """
        known = set(foreign_modules(self._host))
        return known | (set(self.named) if len(self.named) <= MOST_NAMED else set())

    def every(self) -> set[str]:
        """Modules that a file is known of."""
        return set(self.named) | set(self._stored)

    def blob(self, module: str, kernel: Callable[[], Btf | None]) -> bytes | None:
        """BTF over that of `kernel`; None where there is no file of its own."""
        if module not in self._read:
            from crashext.kernel.btf_dwarf import btf_of_dwarf  # few runs need to read DWARF

            path = self._path(module)
            self._read[module] = None if path is None else btf_of_dwarf(path, kernel())
        return self._read[module]

    def _path(self, module: str) -> Path | None:
        if module in self.named:
            return self.named[module]
        wanted = self._build_id(module)
        for path in self._candidates(module, wanted):
            try:
                if wanted is not None and build_id(path) == wanted:
                    return path
            except HostError:
                continue  # no ELF file, or not to be read
        return None

    def _candidates(self, module: str, wanted: str | None) -> Iterator[Path]:
        if wanted:
            path = Path(_BUILD_IDS, wanted[:2], f"{wanted[2:]}.debug")
            if path.is_file():
                yield path
        host = self._host
        for folder in host.debug_folders() if isinstance(host, DebugFilesHost) else ():
            for name in (module, module.replace("_", "-")):
                yield from (p for s in _SUFFIXES if (p := folder / f"{name}{s}").is_file())
        yield from self._stored.get(module, ())

    @cached_property
    def _stored(self) -> dict[str, list[Path]]:
        """Files of this release where distributions keep them, by module."""
        found: dict[str, list[Path]] = {}
        loaded = {m.name for m in self._host.modules()}
        left = _MOST_FILES
        release = self._host.info().release
        if not release or "/" in release:
            return found
        for store in _STORES:
            for folder, _, files in os.walk(Path(store, release)):
                left -= len(files)
                for name in files if left > 0 else ():
                    suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
                    module = name.removesuffix(suffix).replace("-", "_") if suffix else ""
                    if module in loaded:
                        found.setdefault(module, []).append(Path(folder, name))
        return found

    @cached_property
    def _addresses(self) -> dict[str, int]:
        return {module.name: address for address, module in module_list(self._host)}

    def _build_id(self, name: str) -> str | None:
        """Of a loaded module, from its notes in memory."""
        address = self._addresses.get(name)
        try:
            return None if address is None else _noted_id(self._host, address)
        except (ReadFault, UnknownLayout):
            return None


def _noted_id(host: Host, module: int) -> str | None:
    layout, notes = host.layout("struct module"), host.layout("struct module_notes_attrs")
    attribute = host.layout("struct bin_attribute")
    if layout is None or notes is None or attribute is None or "notes_attrs" not in layout:
        return None
    at = u64(host, module + layout["notes_attrs"].offset)
    if not at or "attrs" not in notes:
        return None
    # 7.2 has no count any more, but a group that ends after the last.
    count = u32(host, at + notes["notes"].offset) if "notes" in notes else _MOST_NOTES
    for i in range(min(count, _MOST_NOTES)):
        entry = at + notes["attrs"].offset + i * attribute.size
        where = u64(host, entry + attribute["private"].offset)
        size = u64(host, entry + attribute["size"].offset)
        if not where >> 63 or not 0 < size <= _MAX_NOTE:
            return None
        found = _in_note(host.read(where, size))
        if found is not None:
            return found
    return None


def _in_note(note: bytes) -> str | None:
    """The GNU build ID of an ELF note section, in hex."""
    at = 0
    while at + 12 <= len(note):
        name, size, kind = (int.from_bytes(note[at + i : at + i + 4], "little") for i in (0, 4, 8))
        body = at + 12 + (name + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and note[at + 12 : at + 16] == b"GNU\0":
            return note[body : body + size].hex()
        at = body + (size + 3 & ~3)
    return None

"""The guest's root file system: busybox, a few modules and ``guest/init``, as a cpio archive."""

from __future__ import annotations

import gzip
import lzma
import re
import shlex
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import LabError, MissingToolsError
from .packages import Kernel
from .run import run
from .scenarios import Scenario

INIT = Path(__file__).parent / "guest" / "init"

FIRST_PROGRAMS = tuple(
    INIT.parent / name for name in ("in-cgroup", "many-cgroups", "with-allocinfo")
)
"""Other first programs, for ``rdinit=/lab/NAME``, which become `INIT`: one in a memory cgroup, one
after many were made and removed, one that has it save /proc/allocinfo too."""

GUEST_MODULES = ("virtio_pci", "virtio_blk", "qemu_fw_cfg")
"""Disks to hand files out; qemu_fw_cfg gives QEMU the VMCOREINFO note for the dump."""

_DEPENDS = re.compile(rb"(?:^|\0)depends=([\w,-]*)\0")


DISK_MODULES = ("crc32c_generic", "ext4")
"""For the file that the page cache holds. ext4 asks for crc32c when it is mounted, not before."""

OLDER_KERNELS_HAVE = ("crc32c_generic",)
"""Modules that later kernels do without: ext4 of 7.2 calls the library's crc32c."""


def guest_modules(scenario: Scenario) -> tuple[str, ...]:
    """The kernel's own modules that `scenario` loads."""
    return (*GUEST_MODULES, *(DISK_MODULES if scenario.parameters.get("pagecache_mib") else ()))


def first_programs(scenario: Scenario) -> list[Path]:
    """Those of `FIRST_PROGRAMS` that the guest's command line names."""
    return [path for path in FIRST_PROGRAMS if f"rdinit=/lab/{path.name}" in scenario.append]


def write_initramfs(
    path: Path,
    kernel: Kernel,
    scenario: Scenario,
    module: Path | None,
    program: Path | None,
    extra: Path | None = None,
) -> None:
    """Write to `path` what boots `scenario`.

    `module` is the leak module, `extra` the scenario's own, and `program` is ``labuser``, where
    `scenario` uses them.
    """
    busybox = kernel.busybox
    if busybox is None:
        raise MissingToolsError("missing Debian packages: apt-get install busybox-static")
    archive = Archive()
    for folder in ("bin", "lab", "lab/modules"):
        archive.folder(folder)
    archive.file("bin/busybox", busybox.read_bytes(), executable=True)
    archive.file("init", INIT.read_bytes(), executable=True)
    for first in first_programs(scenario):
        archive.file(f"lab/{first.name}", first.read_bytes(), executable=True)
    add_modules(archive, kernel, guest_modules(scenario), extra)
    leaks = ""
    if module is not None:
        archive.file("lab/leaklab.ko", module.read_bytes())
        leaks = " ".join(f"{k}={v}" for k, v in scenario.module_parameters.items())
    if program is not None:
        archive.file("lab/labuser", program.read_bytes(), executable=True)
    settings = [f"{name}={value}\n" for name, value in scenario.settings.items()]
    archive.file("lab/settings", f"LEAKLAB={shlex.quote(leaks)}\n{''.join(settings)}".encode())
    if scenario.parameters.get("trace"):
        _add_trace_cmd(archive)
    path.write_bytes(gzip.compress(archive.finish(), compresslevel=1))


def add_modules(
    archive: Archive, kernel: Kernel, wanted: Iterable[str], extra: Path | None = None
) -> None:
    """Add modules with those they need, `extra` after them, and the order in which the guest loads
    them."""
    names = []
    for driver in _with_dependencies(kernel, wanted):
        names.append(driver.name.removesuffix(".xz"))
        archive.file(f"lab/modules/{names[-1]}", _content(driver))
    if extra is not None:
        names.append("extra.ko")
        archive.file(f"lab/modules/{names[-1]}", extra.read_bytes())
    archive.file("lab/modules/order", "".join(f"{name}\n" for name in names).encode())


def _add_trace_cmd(archive: Archive) -> None:
    """Add trace-cmd and the libraries that it is linked with."""
    program = shutil.which("trace-cmd")
    if program is None:
        raise MissingToolsError("missing Debian packages: apt-get install trace-cmd")
    archive.file("bin/trace-cmd", Path(program).read_bytes(), executable=True)
    # "libz.so.1 => /lib/libz.so.1 (0x7f...)"; the loader itself has no arrow.
    for library in re.findall(r"(/\S+) \(0x", run(["ldd", program])):
        for folder in list(Path(library).parents)[-2::-1]:
            archive.folder(str(folder).lstrip("/"))
        archive.file(library.lstrip("/"), Path(library).read_bytes(), executable=True)


class Archive:
    """A cpio archive in the "newc" format that the kernel unpacks."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inodes = 0

    def folder(self, name: str) -> None:
        """Add an empty folder."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, executable: bool = False) -> None:
        """Add a regular file."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def finish(self) -> bytes:
        """The whole archive; nothing may be added afterwards."""
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._data)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._inodes += 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        header = (self._inodes, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        self._data += b"070701" + b"".join(b"%08X" % number for number in header)
        self._padded(name.encode() + b"\0")
        self._padded(content)

    def _padded(self, content: bytes) -> None:
        self._data += content
        self._data += bytes(-len(self._data) % 4)


def _with_dependencies(kernel: Kernel, wanted: Iterable[str]) -> list[Path]:
    """Files of the `wanted` modules, each after those it needs; built-in ones are left out."""
    files = {
        path.name.split(".ko")[0].replace("-", "_"): path
        for path in (kernel.modules / "kernel").rglob("*.ko*")
    }
    builtin = (kernel.modules / "modules.builtin").read_text().replace("-", "_")
    order: dict[str, Path] = {}

    def visit(name: str) -> None:
        if name in order or f"/{name}.ko\n" in builtin:
            return
        if name not in files and name in OLDER_KERNELS_HAVE:
            return
        if name not in files:
            raise LabError(f"kernel {kernel.release} has no module {name}")
        found = _DEPENDS.search(_content(files[name]))
        for needed in (found[1].decode() if found else "").split(","):
            if needed:
                visit(needed.replace("-", "_"))
        order[name] = files[name]

    for name in wanted:
        visit(name)
    return list(order.values())


def _content(module: Path) -> bytes:
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data

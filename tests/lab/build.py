"""From a scenario to a complete dump folder in the cache."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from time import monotonic
from typing import IO, Any

from . import busy, dumps, truth
from .errors import LabError
from .initramfs import INIT, first_programs, guest_modules, write_initramfs
from .module_build import EXTRA, build_module, source_hash
from .own_kernel import SOURCES, compile_kernel, own_kernel
from .packages import NATIVE, Kernel, fetch, newest_kernel, require_tools
from .program_build import SOURCE as PROGRAM
from .program_build import build_program
from .qemu import EMULATORS, Guest, Machine, booted, processor
from .run import run
from .scenarios import DEBIAN, Scenario
from .suites import SUITES, fetch_suite, suite_kernel

BOOT_TIMEOUT = 600.0
LOCK_TIMEOUT = 3600.0
DISK_BYTES = 1 << 30
"""Of each disk that the guest writes to; they are sparse, so only what is used counts."""

READY = "lab: ready"

BEFORE = "before"
"""Folder of the earlier dump, in that of the later one."""


@dataclass(frozen=True)
class Dump:
    """A finished dump and all that is known about it."""

    folder: Path

    @property
    def vmcore(self) -> Path:
        """ELF core of the whole guest memory."""
        return self.folder / "vmcore"

    @property
    def kdump(self) -> Path:
        """Compressed kdump of the whole memory; absent when it was not asked for. Of another
        architecture, whose dumps makedumpfile does not know, it is QEMU's own."""
        return self.folder / "vmcore.kdump"

    @property
    def d31(self) -> Path:
        """Compressed kdump filtered with dump level 31; absent when it was not asked for."""
        return self.folder / "vmcore.d31"

    @property
    def vmlinux(self) -> Path:
        """The kernel's debug information."""
        return self.folder / "vmlinux"

    @property
    def module(self) -> Path:
        """``leaklab.ko`` with debug information; absent where it was not loaded."""
        return self.folder / "leaklab.ko"

    @property
    def truth_file(self) -> Path:
        """The ground truth, ``truth.json``."""
        return self.folder / "truth.json"

    @property
    def console(self) -> Path:
        """What the guest printed."""
        return self.folder / "console.log"

    @property
    def proc(self) -> Path:
        """Files of the guest's /proc, read just before the dump; meminfo last of all."""
        return self.folder / "proc"

    @property
    def traces(self) -> Path:
        """Traces of the allocations: ``trace.txt`` as tracefs has it, and ``trace.dat``."""
        return self.folder / "traces"

    @property
    def before(self) -> Dump:
        """The same guest, dumped earlier, in the ELF format only (scenario ``growth``)."""
        return Dump(self.folder / BEFORE)

    def truth(self) -> dict[str, Any]:
        """The ground truth, parsed."""
        parsed: dict[str, Any] = json.loads(self.truth_file.read_text())
        return parsed

    def addresses(self, part: str) -> Path:
        """All addresses of one part: little-endian 64-bit numbers, in order of allocation."""
        return self.folder / "addresses" / f"{part}.bin"


def cache_folder() -> Path:
    """``$CRASHEXT_LAB``, else a folder in the user's cache."""
    chosen = os.environ.get("CRASHEXT_LAB")
    return Path(chosen).resolve() if chosen else Path.home() / ".cache" / "crashext-lab"


def build(
    scenario: Scenario,
    *,
    kdump: bool = True,
    d31: bool = True,
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Dump:
    """Return the dump of `scenario`, building whatever of it is not in the cache yet.

    `tell` is called with a line for each step. A dump is only ever seen complete: it is made
    under another name and renamed.
    """
    cache = cache_folder()
    kernel = _kernel(scenario, cache)
    dump = _dump_of(scenario, kernel, cache)
    native = kernel.arch == NATIVE
    formats = {31: dump.d31} if d31 and native else {}
    if kdump and native:
        formats[0] = dump.kdump
    if dump.folder.is_dir() and not force and all(path.is_file() for path in formats.values()):
        return dump
    require_tools(kernel)
    with _step(tell, f"{scenario.name}: kernel"):
        _provide(kernel, cache, tell)
    # Two dumps may be built at a time, one dump only once.
    with _lock(cache / "locks" / dump.folder.name, tell), _step(tell, f"{scenario.name}: all"):
        if force or not dump.folder.is_dir():
            with _distribution_lock(scenario, cache, tell):
                _build_folder(scenario, kernel, cache, dump.folder, tell)
        for level, path in formats.items():
            if not path.is_file():
                with _step(tell, f"{scenario.name}: makedumpfile -d {level}"):
                    dumps.compress(dump.vmcore, path, level)
    return dump


def must_compile(scenario: Scenario) -> bool:
    """Whether `build` would first have to compile a kernel, which takes minutes."""
    if scenario.kernel in SUITES:
        return False
    kernel = _kernel(scenario, cache_folder())
    return kernel.config is not None and not kernel.root.is_dir()


def must_fetch_suite(scenario: Scenario) -> bool:
    """Whether `build` would first download another suite's kernel, a gigabyte and more."""
    if scenario.kernel not in SUITES:
        return False
    folder = cache_folder() / "suites" / scenario.kernel
    return not any(folder.glob("*/vmlinux"))


def must_boot_distribution(scenario: Scenario) -> bool:
    """Whether `build` would first have to boot a distribution, and maybe make it: minutes."""
    if not scenario.distribution:
        return False
    cache = cache_folder()
    return not _dump_of(scenario, _kernel(scenario, cache), cache).folder.is_dir()


def _dump_of(scenario: Scenario, kernel: Kernel, cache: Path) -> Dump:
    name = f"{scenario.name}-{kernel.release}-{_key(scenario, kernel)}"
    return Dump(cache / "dumps" / name)


def _kernel(scenario: Scenario, cache: Path) -> Kernel:
    if scenario.kernel == DEBIAN:
        return newest_kernel(cache)
    if scenario.kernel in SUITES:
        # The first time fetches package lists, a few MB; hence the lock.
        with _lock(cache / "suites" / scenario.kernel, lambda line: None):
            return suite_kernel(cache, SUITES[scenario.kernel])
    if scenario.kernel in SOURCES:
        with _lock(cache / "suites" / SOURCES[scenario.kernel], lambda line: None):
            return own_kernel(cache, scenario.kernel)
    return own_kernel(cache, scenario.kernel)


def _provide(kernel: Kernel, cache: Path, tell: Callable[[str], None]) -> None:
    if kernel.root.is_dir():
        return
    if kernel.suite:
        # Under a lock of its own: builders of other kernels' dumps need not wait for downloads.
        with _lock(kernel.root.parent, tell):
            fetch_suite(cache, kernel)
        return
    if kernel.config is None:
        with _lock(cache, tell):
            fetch(kernel)
        return
    # Under a lock of its own: builders of other dumps need not wait for it.
    with _lock(kernel.root.parent, tell):
        tell(f"compiling {kernel.release}: 5 to 25 minutes, once")
        compile_kernel(cache, kernel)


def _key(scenario: Scenario, kernel: Kernel) -> str:
    """A digest of all that decides what is in the dump."""
    inputs = [
        sorted(scenario.parameters.items()),
        *(scenario.memory, scenario.append, kernel.version, source_hash(), INIT.read_text()),
        *(EMULATORS[kernel.arch].command_line, guest_modules(scenario)),
        PROGRAM.read_text() if scenario.needs_program else "",
    ]
    if scenario.distribution:
        inputs.append(busy.sources())
    if scenario.extra:
        inputs.append(source_hash(EXTRA / scenario.extra))
    if kernel.arch != NATIVE:
        inputs.append("kdump")
    inputs.extend(path.read_text() for path in first_programs(scenario))
    if scenario.processor:
        inputs.append(scenario.processor)
    return sha256(json.dumps(inputs).encode()).hexdigest()[:10]


def _build_folder(
    scenario: Scenario,
    kernel: Kernel,
    cache: Path,
    folder: Path,
    tell: Callable[[str], None],
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    building = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    building.chmod(0o755)
    module = None
    if scenario.module_parameters:
        # One at a time, or each of two builders would compile the same module.
        with _lock(cache / "modules", tell), _step(tell, f"{scenario.name}: leak module"):
            module = build_module(cache, kernel)
            shutil.copyfile(module, building / "leaklab.ko")
    # A failed guest leaves this folder behind: its console is what the error points to.
    _boot_and_dump(scenario, kernel, module, building, tell)
    (building / "vmlinux").symlink_to(os.path.relpath(kernel.vmlinux, folder))
    if (building / BEFORE).is_dir():
        for name in ("vmlinux", "leaklab.ko"):
            (building / BEFORE / name).symlink_to(f"../{name}")
    if folder.is_dir():
        shutil.rmtree(folder)
    building.rename(folder)


def _remove_stale(folder: Path) -> None:
    """Remove what failed runs left of `folder`. Under its lock, so nobody is at work there."""
    for stale in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(stale)


def _boot_and_dump(
    scenario: Scenario,
    kernel: Kernel,
    module: Path | None,
    building: Path,
    tell: Callable[[str], None],
) -> None:
    with TemporaryDirectory(prefix=".work-", dir=building) as work_name:
        work = Path(work_name)
        names = ["addresses", "out"]
        if scenario.parameters.get("pagecache_mib"):
            names.append("data")
        disks = tuple(work / f"{name}.img" for name in names)
        for disk in disks:
            disk.touch()
            os.truncate(disk, DISK_BYTES)
        if scenario.distribution:
            disks += (busy.prepare(work, cache_folder(), kernel, scenario, module),)
        else:
            program = work / "labuser" if scenario.needs_program else None
            if program is not None:
                build_program(kernel, program)
            extra = None
            if scenario.extra:
                with _lock(cache_folder() / "modules", tell):
                    extra = build_module(cache_folder(), kernel, scenario.extra)
            write_initramfs(work / "initramfs", kernel, scenario, module, program, extra)
        machine = Machine(
            image=kernel.image,
            initramfs=work / "initramfs",
            memory=scenario.memory,
            append=scenario.append,
            disks=disks,
            console=building / "console.log",
            arch=kernel.arch,
            cpu=processor(scenario.processor, kernel.large_pages),
        )

        def dump_guest(guest: Guest) -> None:
            if scenario.parameters.get("nodes_later"):
                earlier = scenario.changed({"nodes_later": 0})
                _dump_guest(guest, machine, earlier, building / BEFORE, work / BEFORE, tell)
                guest.go_on()
            _dump_guest(guest, machine, scenario, building, work, tell)

        booted(machine, dump_guest)


def _dump_guest(
    guest: Guest,
    machine: Machine,
    scenario: Scenario,
    folder: Path,
    work: Path,
    tell: Callable[[str], None],
) -> None:
    """Wait until the guest is ready, dump it to `folder`, and collect its truth there."""
    folder.mkdir(exist_ok=True)
    with _step(tell, f"{scenario.name}: boot and leak"):
        guest.wait_for(READY, busy.TIMEOUT if scenario.distribution else BOOT_TIMEOUT)
    with _step(tell, f"{scenario.name}: dump"):
        guest.dump(folder / "vmcore")
        if machine.arch != NATIVE:
            guest.dump(work / "flat", "kdump-zlib")
            dumps.rearrange(work / "flat", folder / "vmcore.kdump")
    with _step(tell, f"{scenario.name}: mend and check"):
        dumps.mend_program_headers(folder / "vmcore")
        dumps.punch_holes(folder / "vmcore")
        truth.unpack_disk(machine.disks[0], folder)
        truth.unmask(folder / "addresses")
        # A later dump has the earlier parts as well, but the guest hands each out only once.
        for table in (folder / BEFORE / "addresses").glob("*.bin"):
            shutil.copyfile(table, folder / "addresses" / table.name)
        truth.unpack_disk(machine.disks[1], work / "out")
        known = truth.collect(scenario, work / "out", folder / "addresses")
        (work / "out" / "proc").rename(folder / "proc")
        (folder / "proc" / "meminfo").write_text(truth.meminfo(machine.console.read_text()))
        if scenario.parameters.get("trace"):
            (work / "out" / "traces").rename(folder / "traces")
        truth.write(folder / "truth.json", known)


def _distribution_lock(
    scenario: Scenario, cache: Path, tell: Callable[[str], None]
) -> AbstractContextManager[None]:
    """The disk of the distribution is made once, and two such guests would starve each other."""
    return _lock(cache / "busy", tell) if scenario.distribution else nullcontext()


@contextmanager
def _lock(cache: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep other builders of the same cache out."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another lab build, which holds {file.name}")
            _wait_for_lock(file)
        yield


def _wait_for_lock(file: IO[str]) -> None:
    # The program, because fcntl.flock() cannot wait for a bounded time. The lock belongs to the
    # open file, which is ours as well.
    command = ["flock", "--timeout", str(int(LOCK_TIMEOUT)), str(file.fileno())]
    try:
        run(command, LOCK_TIMEOUT + 10, keep_fds=(file.fileno(),))
    except LabError:
        raise LabError(f"another lab build still holds {file.name}") from None


@contextmanager
def _step(tell: Callable[[str], None], name: str) -> Iterator[None]:
    start = monotonic()
    yield
    tell(f"{name}: {monotonic() - start:.1f} s")

"""How the verdict's cost grows with the machine: ``python -m tests.benchmarks.growth [FOLDER…]``.

Folders hold a dump (vmcore, vmcore.d31) and its vmlinux; else the lab's `default` and `huge`. With
``--ticket FOLDER`` the report's machine is made there first, if it is not there: 419 million leaked
objects, 13 GB as ELF and 2 GB as makedumpfile's lzo. CPU seconds of whole processes, the best of
three, and beside them those of reading the same kernel memory once through the same reader, opening
taken off.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import process_time

from crashext.analysis.reach.scan import KERNEL_USES, present_frames, readable_frames, scan_memory
from crashext.hosts.drgn import open_core
from crashext.kernel.access import Words
from crashext.kernel.pages.frames import frames
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.giant import SHAPES, make
from tests.lab import build, scenario

from .apart import run

FORMATS = ("vmcore", "vmcore.d31")
RUNS = 3


class Nothing:
    """A scanner that looks for nothing."""

    def look(self, offset: int, words: Words) -> None: ...

    def take(self, found: None) -> None: ...


def read_once(core: Path, vmlinux: Path) -> tuple[float, int]:
    """CPU seconds that reading all kernel memory takes, and its bytes."""
    view = KernelView(open_core(core, [vmlinux]))
    found = frames(view.host, view.memory, view.space, silent)
    present = present_frames(view.host, len(found.use))
    wanted = readable_frames(view, found, present, *KERNEL_USES)
    start = process_time()
    scan_memory(view, wanted, present, [Nothing()], silent, "")
    return process_time() - start, wanted.count() << view.space.page_shift


def verdict(core: Path, vmlinux: Path) -> tuple[float, int]:
    """CPU seconds of the whole process, and its peak memory in bytes."""
    command = [sys.executable, "-m", "crashext", "leakscan", "-c", str(core), "-s", str(vmlinux)]
    took = run([*command, "--json"])
    return took.seconds, took.peak


def ticket(folder: Path) -> None:
    """Make the report's machine."""
    core, filtered, base = folder / "vmcore", folder / "vmcore.d31", build(scenario("nodes"))
    if not core.is_file():
        folder.mkdir(exist_ok=True)
        make(base, SHAPES["ticket"], core)
        (folder / "vmlinux").symlink_to(base.vmlinux)
    if not filtered.is_file():
        command = ["makedumpfile", "-l", "-d", "31", str(core), str(filtered)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print the table."""
    names = sys.argv[1:]
    if names[:1] == ["--ticket"]:
        names = names[1:]
        ticket(Path(names[0]))
    folders = [Path(name) for name in names]
    folders = folders or [build(scenario(name)).folder for name in ("default", "huge")]
    print("| dump | kernel memory | read once | verdict | times | peak memory |")
    print("|---|---|---|---|---|---|")
    for folder in folders:
        for name in FORMATS:
            core, vmlinux = folder / name, folder / "vmlinux"
            if not core.is_file():
                continue
            once, size = min(read_once(core, vmlinux) for _ in range(RUNS))
            seconds, peak = min(verdict(core, vmlinux) for _ in range(RUNS))
            print(
                f"| {folder.name}, {name} | {size / 1e6:,.0f} MB | {once:.1f} s | {seconds:.1f} s "
                f"| {seconds / once:.1f} | {peak / 1e6:,.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()

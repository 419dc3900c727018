"""How the verdict's cost grows with the machine: ``python -m tests.benchmarks.growth [FOLDER…]``.

Folders hold a dump (vmcore, vmcore.d31) and its vmlinux; else the lab's `default` and `huge`.
CPU seconds of whole processes, and beside them those of reading the same kernel memory once through
the same reader, opening taken off.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import process_time

from crashext.analysis.reach.scan import KERNEL_USES, present_frames, readable_frames, scan_memory
from crashext.hosts.drgn import open_core
from crashext.kernel.access import Words
from crashext.kernel.pages.frames import frames
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.lab import build, scenario

from .apart import run

FORMATS = ("vmcore", "vmcore.d31")


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


def main() -> None:
    """Print the table."""
    folders = [Path(name) for name in sys.argv[1:]]
    folders = folders or [build(scenario(name)).folder for name in ("default", "huge")]
    print("| dump | kernel memory | read once | verdict | times | peak memory |")
    print("|---|---|---|---|---|---|")
    for folder in folders:
        for name in FORMATS:
            core, vmlinux = folder / name, folder / "vmlinux"
            if not core.is_file():
                continue
            once, size = read_once(core, vmlinux)
            seconds, peak = verdict(core, vmlinux)
            print(
                f"| {folder.name}, {name} | {size / 1e6:,.0f} MB | {once:.1f} s | {seconds:.1f} s "
                f"| {seconds / once:.1f} | {peak / 1e6:,.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""The pass over memory alone: `python -m tests.benchmarks.passes FOLDER…`, with `--jobs` 1 and 2.

A FOLDER has a vmcore and a vmlinux, as the lab's have; it may be another file of such a folder.
With CRASHEXT_NUMPY=1 numpy does what compiled loops do else. Beside the pass stands reading the
same pages with the same readers and looking at none. Prints the table for README.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import _marked, reach
from crashext.analysis.reach.references import References, find_references
from crashext.analysis.reach.scan import (
    KERNEL_USES,
    present_frames,
    readable_frames,
    scan_memory,
)
from crashext.analysis.settings import Settings
from crashext.hosts.drgn import open_core
from crashext.kernel.access import Words
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent

SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)
RUNS = 5


class Nobody:
    """A scanner that looks at nothing."""

    def look(self, offset: int, words: Words) -> None:
        """Nothing."""

    def take(self, found: None) -> None:
        """Nothing."""


def best(work: Callable[[], object]) -> tuple[float, float, float]:
    """CPU and wall seconds, and CPU seconds of this thread alone, the best of some runs each."""
    times: list[tuple[float, ...]] = []
    for _ in range(RUNS):
        before = time.process_time(), time.perf_counter(), time.thread_time()
        work()
        after = time.process_time(), time.perf_counter(), time.thread_time()
        times.append(tuple(b - a for a, b in zip(before, after, strict=True)))
    cpu, wall, own = (min(column) for column in zip(*times, strict=True))
    return cpu, wall, own


def measure(core: Path, vmlinux: Path) -> None:
    """The rows of one dump."""
    host = open_core(core, [vmlinux])
    found = reach(KernelView(host), silent, partial(generator, SETTINGS))
    view = found.view
    present = present_frames(host, len(found.frames.use))
    wanted = readable_frames(view, found.frames, present, *KERNEL_USES)
    size = wanted.count() << view.space.page_shift
    loops = "numpy" if found.table.loops is None else "compiled"

    def pointers() -> References:
        return find_references(found.nodes, found.frames, found.stacks, present, silent)

    def mark() -> None:
        _marked(found.nodes, found.whole, found.giants, pointers())

    for jobs in (1, 2):
        host.jobs = jobs
        for what, work in (
            ("read", lambda: scan_memory(view, wanted, present, [Nobody()], silent, "")),
            (f"pointers, {loops}", pointers),
            (f"pointers and mark, {loops}", mark),
        ):
            cpu, wall, own = best(work)
            name = f"{core.parent.name.partition('-')[0]}, {core.name}"
            # What this thread does, and half of what the others do.
            shared = own + (cpu - own) / jobs
            print(
                f"| {name} | {jobs} | {what} | {cpu:.2f} s | {wall:.2f} s | {size / cpu / 1e9:.2f} "
                f"GB/s of CPU | {size / shared / 1e9:.2f} GB/s |",
                flush=True,
            )


def main(folders: list[str]) -> None:
    """One table."""
    print(
        f"load {os.getloadavg()[0]:.1f}\n"
        "| dump | jobs | what | CPU | wall | speed | with all CPUs |"
    )
    print("|---|---|---|---|---|---|---|")
    for folder in map(Path, folders):
        core = folder / "vmcore" if folder.is_dir() else folder
        measure(core, core.parent / "vmlinux")


if __name__ == "__main__":
    main(sys.argv[1:])

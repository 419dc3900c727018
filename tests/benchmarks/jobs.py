"""Two jobs beside one, on every form of a compressed dump.

`python -m tests.benchmarks.jobs FOLDER`: it has a vmcore.kdump and a vmlinux, as the lab's have.
Pages are packed anew by lzo, snappy and zstd, and once as QEMU leaves the header, which our own
reader reads. One job and two take turns, so that other work hits both. By CPU time two jobs take
what the thread that hands out and collects takes, and half of all else: that many times less than
one job they take on two CPUs that nobody else uses. Prints the table for README.md.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import reach
from crashext.analysis.reach.references import find_references
from crashext.analysis.reach.scan import KERNEL_USES, present_frames, readable_frames, scan_memory
from crashext.hosts.decompress import LIBRARIES
from crashext.hosts.drgn import DrgnHost, open_core
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.benchmarks.passes import SETTINGS, Nobody
from tests.hosts.recompressed import recompressed, without_names

TURNS = 8


def taken(host: DrgnHost, jobs: int, work: Callable[[], object]) -> tuple[float, float, float]:
    """Wall and CPU seconds, and those of CPU time that this thread took."""
    host.jobs = jobs
    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own


def measure(core: Path, vmlinux: Path) -> None:
    """The rows of one form."""
    host = open_core(core, [vmlinux])
    found = reach(KernelView(host), silent, partial(generator, SETTINGS))
    present = present_frames(host, len(found.frames.use))
    wanted = readable_frames(found.view, found.frames, present, *KERNEL_USES)
    read = partial(scan_memory, found.view, wanted, present, [Nobody()], silent, "")
    nodes = (found.nodes, found.frames, found.stacks, present, silent)
    for what, work in (("read", read), ("pointers", partial(find_references, *nodes))):
        turns = [(taken(host, 1, work), taken(host, 2, work)) for _ in range(TURNS)]
        one, two = (min(turn[i][0] for turn in turns) for i in (0, 1))
        cpus = [min(turn[i][1] for turn in turns) for i in (0, 1)]
        serial = min(both[2] for _, both in turns)
        ideal = cpus[0] / (serial + (cpus[1] - serial) / 2)
        pairs = median(alone[0] / both[0] for alone, both in turns)
        print(
            f"| {core.name} | {what} | {cpus[0]:.2f} and {cpus[1]:.2f} s | {serial:.3f} s "
            f"| {ideal:.2f} | {one / two:.2f} | {pairs:.2f} |",
            flush=True,
        )


def main(folder: Path) -> None:
    """One table."""
    whole, vmlinux = folder / "vmcore.kdump", folder / "vmlinux"
    print(
        f"load {os.getloadavg()[0]:.1f}\n| form | what | CPU | of two, serial | by CPU time "
        "| by the shortest | median of pairs |"
    )
    print("|---|---|---|---|---|---|---|")
    measure(whole, vmlinux)
    with TemporaryDirectory() as work:
        for form in LIBRARIES:
            path = recompressed(whole, Path(work, form), form)
            measure(path, vmlinux)
            if form == "lzo":
                bare = Path(shutil.copyfile(path, path.with_name("lzo of QEMU")))
                measure(without_names(bare), vmlinux)
                bare.unlink()
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

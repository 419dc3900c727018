"""Who points at objects, timed: `python -m tests.benchmarks.references [--crash]`.

(a) The pass over memory alone, on a dump that is in the page cache, in CPU seconds of its one
thread. (b) The same question for 1,000 objects: our pass, drgn's search_memory_word over the same
memory, and crash's `search`, which are given some of the targets and scaled. (c) `leakscan
--orphans` as a whole process. All in CPU seconds. Prints the tables for README.md of this folder.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import drgn
import numpy as np

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import Class, Reach, reach
from crashext.analysis.reach.references import find_references
from crashext.analysis.reach.scan import present_frames
from crashext.analysis.settings import Settings
from crashext.hosts.drgn import open_core
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.lab import Dump, build, scenario

from .scan import measure

TARGETS = 1000
FEW = 5
"""Targets that the slow contenders are given, one search each, as their users would."""
SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)


def marked(dump: Dump) -> Reach:
    """A dump's marked kernel."""
    view = KernelView(open_core(dump.vmcore, [dump.vmlinux]))
    return reach(view, silent, partial(generator, SETTINGS))


def timed_pass(found: Reach) -> tuple[float, float, int]:
    """CPU and wall seconds of the best of five passes, and the bytes of each."""
    present = present_frames(found.view.host, len(found.frames.use))
    best = (float("inf"), float("inf"))
    size = 0
    for _ in range(5):
        cpu, wall = time.process_time(), time.perf_counter()
        seen = find_references(found.nodes, found.frames, found.stacks, present, silent)
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        size = seen.coverage.bytes_read
    return *best, size


def targets(found: Reach) -> list[tuple[int, int]]:
    """First and last byte of 1,000 random objects that are judged."""
    slots = np.arange(found.table.count, dtype=np.int64)
    mine = slots[found.classes(slots) != Class.NOT_JUDGED]
    some = np.sort(np.random.default_rng(0).choice(mine, TARGETS, replace=False))
    starts = found.table.addresses(some)
    length = found.table.length[found.table.rows(some)]
    return list(zip(starts.tolist(), (starts + length - np.uint64(1)).tolist(), strict=True))


def by_drgn(dump: Dump, ranges: list[tuple[int, int]]) -> tuple[float, float]:
    """CPU seconds for all targets: one search for each (scaled from a few), and one for all."""
    program = drgn.Program()
    program.set_core_dump(dump.vmcore)
    program.load_debug_info([dump.vmlinux], main=True)
    begun = time.process_time()
    for one in ranges[:: TARGETS // FEW]:
        list(program.search_memory_word(one))
    each = (time.process_time() - begun) / FEW * TARGETS
    begun = time.process_time()
    list(program.search_memory_word(*ranges))
    return each, time.process_time() - begun


def by_crash(dump: Dump, ranges: list[tuple[int, int]]) -> float:
    """CPU seconds for all targets with `search -k -m MASK`, scaled from a few, no start in them.

    Objects of a power of two bytes: the mask covers the interior pointers.
    """
    some = [
        (first, last - first)
        for first, last in ranges
        if last - first in (31, 63, 127, 255) and first % (last - first + 1) == 0
    ][:FEW]
    lines = [f"search -k -m {mask:x} {first:x}" for first, mask in some]
    spent = [_crash(dump, count * lines) for count in (0, 1)]
    return (spent[1] - spent[0]) / len(lines) * TARGETS


def _crash(dump: Dump, lines: list[str]) -> float:
    return measure(["crash", "-s", str(dump.vmlinux), str(dump.vmcore)], lines).cpu


def whole(dump: Dump) -> tuple[float, float]:
    """`leakscan --orphans`: CPU seconds (best of three) and peak MiB, opening the dump included."""
    command = [sys.executable, "-m", "crashext", "leakscan", "--orphans"]
    command += ["-c", str(dump.vmcore), "-s", str(dump.vmlinux)]
    runs = [measure(command) for _ in range(3)]
    return min(r.cpu for r in runs), max(r.peak_mib for r in runs)


def opened(dump: Dump) -> tuple[float, float]:
    """The same for a Python that imports all of it, opens the dump and reads its caches: the floor
    under every command's memory."""
    code = (
        "import sys; from pathlib import Path; import crashext.commands.running; "
        "from crashext.hosts.drgn import open_core; "
        "from crashext.kernel.slab.view import KernelView; "
        "KernelView(open_core(Path(sys.argv[1]), [Path(sys.argv[2])]))"
    )
    ran = measure([sys.executable, "-c", code, str(dump.vmcore), str(dump.vmlinux)])
    return ran.cpu, ran.peak_mib


def main(with_crash: bool) -> None:
    """All three tables."""
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    dumps = {name: build(scenario(name)) for name in ("default", "huge")}
    # First, while this process is small: a child's peak counts what its parent had at the fork.
    print("\n| dump | what | CPU time | peak memory |\n|---|---|---|---|")
    for name, dump in dumps.items():
        for what, (seconds, peak) in (
            ("imports, dump opened", opened(dump)),
            ("`leakscan --orphans`", whole(dump)),
        ):
            print(f"| {name} | {what} | {seconds:.1f} s | {peak:,.0f} MiB |")
    begun = time.process_time()
    found = marked(dumps["default"])
    all_of_it = time.process_time() - begun
    cpu, wall, size = timed_pass(found)
    print("\n| dump | memory read | CPU time | wall time | per core |\n|---|---|---|---|---|")
    cells = (
        f"{size / 1e6:,.0f} MB",
        f"{cpu:.3f} s",
        f"{wall:.3f} s",
        f"{size / cpu / 1e9:.2f} GB/s",
    )
    print("| default |", " | ".join(cells), "|")
    ranges = targets(found)
    rows = [
        ("our pass, all objects of all caches at once", cpu),
        ("ours with opening, slab walk, page frames, stacks and mark", all_of_it),
    ]
    each, together = by_drgn(dumps["default"], ranges)
    rows += [
        (f"drgn `search_memory_word`, one search a target ({FEW} timed, scaled)", each),
        ("drgn `search_memory_word`, all targets in one search", together),
    ]
    if with_crash:
        seconds = by_crash(dumps["default"], ranges)
        rows.append((f"crash `search -k -m`, one a target ({FEW} timed, scaled)", seconds))
    print("\n| 1,000 targets, `default` | CPU time | times our pass |\n|---|---|---|")
    for what, seconds in rows:
        print(f"| {what} | {seconds:,.2f} s | {seconds / cpu:,.0f} |")
    print(f"\nload after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main("--crash" in sys.argv[1:])

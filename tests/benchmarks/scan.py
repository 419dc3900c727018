"""`leakscan CACHE` beside drgn's own iterator, in one run: `python -m tests.benchmarks.scan`.

Each contender is a process of its own, so its time counts opening the dump and its memory is the
whole process's. Prints a table for README.md of this folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.lab import Dump, build, scenario

CACHE = "kmalloc-32"
_DRGN = """
import sys
from pathlib import Path
import drgn
from drgn.helpers.linux.slab import find_slab_cache, slab_cache_for_each_allocated_object
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]], main=True)
cache = find_slab_cache(program, sys.argv[3])
objects = slab_cache_for_each_allocated_object(cache, "void")
if sys.argv[4] == "addresses":
    print(sum(1 for _ in objects))
else:
    size = cache.object_size.value_()
    print(sum(program.read(o.value_(), size) is not None for o in objects))
"""


@dataclass(frozen=True)
class Measured:
    """One run of one process."""

    seconds: float
    cpu: float
    peak_mib: float
    said: str


def measure(command: list[str]) -> Measured:
    """Run `command`; wall and CPU seconds, peak resident MiB, first line of output."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    cpu = used.ru_utime + used.ru_stime
    return Measured(seconds, cpu, used.ru_maxrss / 1024, lines[0] if lines else "")


def compare(name: str, dump: Dump) -> None:
    """One table row for each contender on one dump."""
    where = [str(dump.vmcore), str(dump.vmlinux)]
    opened = ["-c", where[0], "-s", where[1]]
    leakscan = [sys.executable, "-m", "crashext", "leakscan", *opened, "--no-refs", CACHE]
    ours = min((measure(leakscan) for _ in range(3)), key=lambda m: m.seconds)
    rows = [(f"leakscan {CACHE}", ours)]
    for what in ("addresses", "content"):
        command = [sys.executable, "-c", _DRGN, *where, CACHE, what]
        rows.append((f"drgn's iterator, {what}", measure(command)))
    objects = f"{int(rows[-1][1].said):,}"
    for who, run in rows:
        ratio = run.seconds / ours.seconds
        cells = (name, objects, who, f"{run.seconds:.1f} s", f"{run.peak_mib:.0f} MiB")
        print("|", " | ".join(cells), f"| {ratio:.0f} |")


if __name__ == "__main__":
    print("| dump | objects | what | time | peak memory | times leakscan's |")
    print("|---|---|---|---|---|---|")
    for each in sys.argv[1:] or ["default", "huge"]:
        compare(each, build(scenario(each)))

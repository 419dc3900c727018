"""`leakscan` beside what one would ask instead: `python -m tests.benchmarks.scan [DUMP…]`.

drgn's own iterator; crash's `kmem -s` and `kmem -S`, where crash is installed; drgn-tools'
`slabinfo`, where DRGN_TOOLS names a folder with its source. Each contender is a process of its own,
so its time (CPU seconds, user and system) counts opening the dump and its memory is the whole
process's. Prints a table for README.md of this folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
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
_DRGN_TOOLS = """
import sys
import drgn
sys.path.insert(0, sys.argv[3])
from drgn_tools.slabinfo import print_slab_info
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]], main=True)
print_slab_info(program)
"""


@dataclass(frozen=True)
class Measured:
    """One run of one process."""

    seconds: float
    cpu: float
    peak_mib: float
    said: str
    lines: int = 0


def measure(command: list[str], typed: Sequence[str] | None = None) -> Measured:
    """Run `command`, with lines typed at it; seconds, peak resident MiB, first line of output."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if typed is not None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if typed is not None else None,
        text=True,
    )
    if typed is not None and child.stdin is not None:
        child.stdin.write("\n".join([*typed, "quit", ""]))
        child.stdin.close()
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    cpu = used.ru_utime + used.ru_stime
    return Measured(seconds, cpu, used.ru_maxrss / 1024, lines[0] if lines else "", len(lines))


def compare(name: str, dump: Dump) -> None:
    """One table row for each contender on one dump."""
    where = [str(dump.vmcore), str(dump.vmlinux)]
    leakscan = [sys.executable, "-m", "crashext", "leakscan", "-c", where[0], "-s", where[1]]
    rows = []
    for words in (["--no-refs", CACHE], [CACHE], []):
        runs = [measure([*leakscan, *words]) for _ in range(3)]
        rows.append((" ".join(["leakscan", *words]), min(runs, key=lambda m: m.cpu)))
    for what in ("addresses", "content"):
        command = [sys.executable, "-c", _DRGN, *where, CACHE, what]
        rows.append((f"drgn's iterator, {what}", measure(command)))
    objects = f"{int(rows[-1][1].said):,}"
    if folder := os.environ.get("DRGN_TOOLS"):
        command = [sys.executable, "-c", _DRGN_TOOLS, *where, folder]
        rows.append(("drgn-tools' slabinfo, all caches", measure(command)))
    if shutil.which("crash"):
        for line in ("kmem -s", f"kmem -S {CACHE}"):
            run = measure(["crash", "-s", where[1], where[0]], [line])
            rows.append((f"crash's {line}, {run.lines:,} lines", run))
    for who, run in rows:
        ratio = run.cpu / rows[0][1].cpu
        cells = (name, objects, who, f"{run.cpu:.1f} s", f"{run.peak_mib:.0f} MiB")
        print("|", " | ".join(cells), f"| {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    print("| dump | objects | what | CPU time | peak memory | times the first |")
    print("|---|---|---|---|---|---|")
    for each in sys.argv[1:] or ["default", "huge"]:
        compare(each, build(scenario(each)))

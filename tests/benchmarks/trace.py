"""Reading an allocation trace: `python -m tests.benchmarks.trace [EVENTS]`.

Writes a trace as tracefs prints it (tests/trace/generator.py), reads it in a process of its own,
and compares the table of the first million events with a plain dictionary's. Prints a table row
for README.md of this folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from crashext.trace import trace_table
from tests.trace.generator import lines
from tests.trace.reference import Reference

EVENTS = 10_000_000
COMPARED = 1_000_000
_READ = """
import resource, sys, time
from pathlib import Path
from crashext.trace import trace_table
trace = trace_table(Path(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(trace.events, len(trace.outstanding), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def main() -> None:
    """Generate, measure, compare."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.txt"
        with path.open("wb", buffering=1 << 20) as file:
            file.writelines(lines(events))
        start = time.perf_counter()
        said = subprocess.run(
            [sys.executable, "-c", _READ, str(path)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        ).stdout.split()
        seconds = time.perf_counter() - start
        print("| events | text | time | events/s, wall | by CPU time | peak memory | outstanding |")
        print("|---|---|---|---|---|---|---|")
        print(
            f"| {int(said[0]):,} | {path.stat().st_size / 2**20:,.0f} MiB | {seconds:.1f} s "
            f"| {events / seconds:,.0f} | {events / float(said[2]):,.0f} "
            f"| {float(said[3]):,.0f} MiB | {int(said[1]):,} |"
        )
        compare(path, folder, min(events, COMPARED))


def compare(path: Path, folder: str, events: int) -> None:
    """The first `events` events, both ways; ends the program where they differ."""
    part = Path(folder) / "part.txt"
    with path.open("rb") as source:
        some = list(islice(source, events + 6))
    part.write_bytes(b"".join(some))
    reference = Reference()
    start = time.perf_counter()
    reference.take(some)
    seconds = time.perf_counter() - start
    trace = trace_table(part)
    table = {s.function: (s.outstanding, s.bytes, s.allocs, s.frees) for s in trace.sites}
    if table != reference.table() or trace.outstanding.address.tolist() != sorted(
        reference.outstanding
    ):
        raise SystemExit("the table differs from the dictionary's")
    print(f"\nThe first {events:,}: as by a dictionary, which took {seconds:.1f} s")


if __name__ == "__main__":
    main()

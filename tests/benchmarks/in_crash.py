"""Latency inside crash: a second `leakscan kmalloc-32` beside crash's own `kmem -s kmalloc-32`.

`CRASHEXT_PYKDUMP=…/mpykdump64.so python -m tests.benchmarks.in_crash`; one session, in turns.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.in_crash.test_crash import Crash

CACHE = "kmalloc-32"
ROUNDS = 5


def main() -> None:
    """Print the table for README.md of this folder."""
    print("| what | median | fastest | slowest |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        crash = Crash(Path(home), os.environ["CRASHEXT_PYKDUMP"].split(":")[0], "vmcore")
        crash.ask(f"leakscan {CACHE}")  # gdb reads the types the first time
        taken: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for line in (f"kmem -s {CACHE}", f"leakscan {CACHE}"):
                begun = time.perf_counter()
                crash.ask(line)
                taken.setdefault(line, []).append(time.perf_counter() - begun)
        crash.quit()
    for line, seconds in taken.items():
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        print(f"| `{line}` |", " | ".join(f"{s:.2f} s" for s in figures), "|")


if __name__ == "__main__":
    main()

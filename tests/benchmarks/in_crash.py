"""Latency inside crash: our commands beside crash's own, in one session, in turns.

`CRASHEXT_PYKDUMP=…/mpykdump64.so python -m tests.benchmarks.in_crash`: one cache on the default
dump, then the verdict over a healthy guest of 4 GiB beside what an engineer would type.
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
SESSIONS = (
    ("default", (f"kmem -s {CACHE}", f"leakscan --no-refs {CACHE}", f"leakscan {CACHE}")),
    ("healthy4g", ("kmem -i", "kmem -s", "kmem -v", "leakscan")),
)


def measure(scenario: str, lines: tuple[str, ...]) -> None:
    """Print a row a line."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        build = os.environ["CRASHEXT_PYKDUMP"].split(":")[0]
        crash = Crash(Path(home), build, "vmcore", scenario)
        for line in lines:
            crash.ask(line)  # gdb reads the types the first time
        for _ in range(ROUNDS):
            for line in lines:
                begun = time.perf_counter()
                crash.ask(line)
                taken.setdefault(line, []).append(time.perf_counter() - begun)
        crash.quit()
    for line, seconds in taken.items():
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        print(f"| {scenario} | `{line}` |", " | ".join(f"{s:.2f} s" for s in figures), "|")


def main() -> None:
    """Print the table for README.md of this folder."""
    print("| dump | what | median | fastest | slowest |")
    print("|---|---|---|---|---|")
    for scenario, lines in SESSIONS:
        measure(scenario, lines)


if __name__ == "__main__":
    main()

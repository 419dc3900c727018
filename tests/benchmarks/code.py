"""What reading the code costs a report: `python -m tests.benchmarks.code [DUMP…]`.

CPU seconds, the best of three processes: of the index of all calls, of all that is asked of the
code for the groups of one report beside that, and of the whole command. Prints a table for
README.md of this folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from crashext.__main__ import main as command
from crashext.analysis import described
from crashext.kernel.origin import requests
from tests.conftest import lab_view
from tests.lab import build, scenario

CACHES = ("kmalloc-32", "kmalloc-64", "kmalloc-1k")
_INDEX = ((requests, "find_calls"), (requests, "Called"))
_REPORT = ((described, "rank_callers"),)


def _timed(owner: Any, name: str, spent: list[float]) -> None:
    """Have calls of a module's function counted: CPU seconds."""
    function = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            spent.append(time.process_time() - start)

    setattr(owner, name, timed)


def one(line: list[str]) -> None:
    """One command in this process; its times as JSON on stderr."""
    index, report = list[float](), list[float]()
    for parts, spent in ((_INDEX, index), (_REPORT, report)):
        for owner, name in parts:
            _timed(owner, name, spent)
    sys.argv = ["crashext", *line]
    code = command()
    json.dump([code, sum(index), sum(report) - sum(index), time.process_time()], sys.stderr)


def compare(name: str) -> None:
    """A table row for each cache of a dump."""
    dump = build(scenario(name))
    modules = len(lab_view(name).host.modules())
    for cache in CACHES:
        line = ["leakscan", "-c", str(dump.vmcore), "-s", str(dump.vmlinux), cache]
        runs = [_run(line) for _ in range(3)]
        index, analysis, whole = map(min, zip(*runs, strict=True))
        cells = (name, str(modules), cache, *(f"{s:.2f} s" for s in (index, analysis, whole)))
        print("|", " | ".join(cells), "|", flush=True)


def _run(line: list[str]) -> list[float]:
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--one", *line],
        check=True,
        capture_output=True,
        text=True,
    )
    code, *seconds = json.loads(child.stderr.splitlines()[-1])
    assert code in (0, 1), child.stderr
    return [float(s) for s in seconds]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2:])
    else:
        print(f"load: {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs")
        print("| dump | modules | cache | index | all else of the code | whole command |")
        print("|---|---|---|---|---|---|")
        for each in sys.argv[1:] or ["default", "busy-leaks"]:
            compare(each)

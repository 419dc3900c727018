"""What a process took, measured by one that is small itself.

Linux counts what the parent had in memory as the child's, if it was forked from it: a benchmark
that holds a gigabyte would find one in everything that it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

_SMALL = """
import json, os, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = [status, used.ru_utime + used.ru_stime, used.ru_maxrss]
os.write(int(sys.argv[1]), json.dumps(told).encode())
"""


@dataclass(frozen=True)
class Took:
    """One process."""

    seconds: float
    """Of CPU time, user and system, all threads."""
    peak: int
    """Most bytes that were resident."""
    output: bytes


def run(command: list[str]) -> Took:
    """Run a command to its end; its errors go where ours do."""
    reads, writes = os.pipe()
    small = [sys.executable, "-S", "-c", _SMALL, str(writes), *command]
    with subprocess.Popen(small, stdout=subprocess.PIPE, pass_fds=(writes,)) as process:
        os.close(writes)
        assert process.stdout is not None
        output = process.stdout.read()
    with os.fdopen(reads, "rb") as told:
        status, seconds, peak = json.loads(told.read())
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return Took(seconds, peak << 10, output)

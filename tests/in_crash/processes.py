"""The engines of a session: processes that are nobody's children, found by their environment."""

from __future__ import annotations

import time
from pathlib import Path


def engines_of(variable: str) -> list[int]:
    """Engines that were started with `NAME=value` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--bridge" in words and variable.encode() in environment:
            found.append(int(folder.name))
    return found


def gone(pid: int) -> bool:
    """Whether a process ends within a moment."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False

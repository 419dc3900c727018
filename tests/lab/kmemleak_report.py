"""What the guest's kernel itself reported as leaked: ``proc/kmemleak`` of a dump, parsed.

The format is print_unreferenced()'s in mm/kmemleak.c (6.1). It knows nothing of how a scan works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

_HEAD = re.compile(r"unreferenced object 0x([0-9a-f]+) \(size (\d+)\):")
# A comm is up to 15 bytes of whatever a process calls itself, quotes included.
_TASK = re.compile(r'  comm "(.*)", pid (\d+), jiffies \d+(?: .*)?')
_FRAME = re.compile(r"    \[<[^>]*>\] (\S+(?: \[[\w-]+\])?)")


@dataclass(frozen=True)
class Unreferenced:
    """One object to which kmemleak found no way from its roots."""

    address: int
    size: int
    """What was asked for, in bytes; of ``kmem_cache_alloc``, the cache's object size."""
    comm: str
    pid: int
    backtrace: tuple[str, ...]
    """Where it was allocated, innermost first: ``symbol+0xoffset/0xsize [module]``."""


def read_report(path: Path) -> list[Unreferenced]:
    """Every object of a saved ``/sys/kernel/debug/kmemleak``, in the order of allocation.

    `LabError` where the text is not one, or ends within a line or before a backtrace.
    """
    return list(_parse(path.read_text(errors="backslashreplace")))


def _parse(text: str) -> Iterator[Unreferenced]:
    if text and not text.endswith("\n"):
        raise LabError("kmemleak's report ends in the middle of a line")
    # A hex dump's right column has no line breaks: a line that starts so is always a head.
    for block in re.split(r"^(?=unreferenced object )", text, flags=re.MULTILINE):
        if not block:
            continue
        lines = block.splitlines()
        head, task = _HEAD.fullmatch(lines[0]), _TASK.fullmatch(lines[1] if lines[1:] else "")
        if head is None or task is None or "  backtrace:" not in lines:
            raise LabError(f"not kmemleak's format: {lines[0][:80]!r}")
        stack = [_FRAME.fullmatch(line) for line in lines[lines.index("  backtrace:") + 1 :]]
        yield Unreferenced(
            address=int(head[1], 16),
            size=int(head[2]),
            comm=task[1],
            pid=int(task[2]),
            backtrace=tuple(frame[1] for frame in stack if frame is not None),
        )

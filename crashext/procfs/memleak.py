"""bcc's and libbpf-tools' memleak: stacks whose allocations were not freed while it watched.

It prints a table every few seconds; the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from crashext.allocators import beyond_helpers

_MOST = 4096
_MAX_FRAMES = 64
_TABLE = re.compile(r"\s*\[\d\d:\d\d:\d\d\] Top \d{1,6} stacks with outstanding.*", re.ASCII)
_STACK = re.compile(
    r"\s*(\d{1,18}) bytes in (\d{1,15}) allocations from (?:stack|\d+ stacks?).*", re.ASCII
)
_FRAME = re.compile(
    r"\s*(?:#?\d{1,3}[:.]?\s+)?(?:\[?<?(?:0x)?[0-9a-f]{8,16}>?\]?\s+)?<?"
    r"([A-Za-z_.][\w.$]{0,255})(?:\+0x[0-9a-f]{1,16})?(?:/0x[0-9a-f]{1,16})?>?"
    r"(?:\s+[\[(]([\w.-]{1,64})[\])])?\s*",
    re.ASCII,
)


@dataclass(frozen=True)
class Outstanding:
    """Allocations of one stack."""

    bytes: int
    calls: int
    frames: tuple[tuple[str, str], ...]
    """(function, module or ""), innermost first."""

    @property
    def origin(self) -> tuple[str, str]:
        """Who asked for the memory, as far as the stack tells."""
        at = beyond_helpers(name for name, _ in self.frames)
        return self.frames[at] if at is not None else ("", "")


@dataclass(frozen=True)
class MemleakTable:
    """The last table."""

    stacks: tuple[Outstanding, ...]
    """Most bytes first."""
    damaged: int = 0


def parse_memleak(lines: Iterable[str]) -> MemleakTable:
    """Stacks with what they hold."""
    found: list[tuple[int, int, list[tuple[str, str]]]] = []
    damaged = 0
    for line in lines:
        if _TABLE.fullmatch(line):
            found, damaged = [], 0
        elif stack := _STACK.fullmatch(line):
            if len(found) < _MOST:
                found.append((int(stack[1]), int(stack[2]), []))
        elif found and (frame := _FRAME.fullmatch(line)):
            if len(found[-1][2]) < _MAX_FRAMES:
                module = frame[2] or ""
                found[-1][2].append((frame[1], "" if module in ("kernel", "unknown") else module))
        else:
            damaged += bool(line.strip())
    stacks = (Outstanding(size, calls, tuple(frames)) for size, calls, frames in found)
    return MemleakTable(tuple(sorted(stacks, key=lambda s: (-s.bytes, s.frames))), damaged)

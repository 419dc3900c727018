"""Allocations that a tool saw, and that were not freed while it watched: stacks with their sums.

bcc's and libbpf-tools' memleak print a table every few seconds, of which the last one counts. A map
that bpftrace prints has a stack and a number, of which only the map's name may say what it counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from crashext.allocators import beyond_helpers

MOST_STACKS = 4096
MOST_FRAMES = 64
Counts = Literal["bytes", "allocations", "unknown"]
_TABLE = re.compile(
    r"\s*\[\d\d:\d\d:\d\d\] Top \d{1,6} (?:stacks with outstanding|combined).*",
    re.ASCII,
)
_STACK = re.compile(
    r"\s*(\d{1,18}) bytes in (\d{1,15}) allocations from (?:stack|\d+ stacks?).*", re.ASCII
)
_ASIDE = re.compile(r"\s*addr = (?:0x)?[0-9a-f]+ size = \d+\s*", re.ASCII)
_FRAME = re.compile(
    r"""\s*(?:b['"])?(?:\#?\d{1,3}[:.]?\s+)?(?:\[?<?(?:0x)?[0-9a-f]{8,16}>?\]?\s+)?<?
    (?P<name>[A-Za-z_.][\w.$]{0,255})(?P<offset>\+(?:0x[0-9a-f]{1,16}|\d{1,9}))?(?:/0x[0-9a-f]{1,16})?>?
    (?:\s+[\[(]{1,2}(?P<module>/?[A-Za-z_][\w./-]{0,255})[\])]{1,2}(?:\+\d{1,9})?)?
    (?:\s+\((?:0x)?[0-9a-f]{8,16}\))?['"]?\s*""",
    re.ASCII | re.VERBOSE,
)
_NO_MODULES = frozenset(("", "kernel", "kernel.kallsyms", "unknown", "vmlinux"))
_MAP = re.compile(r"\s*@(\w{0,64})\[(.{0,256})", re.ASCII)
_MAP_END = re.compile(
    r"(?P<key>.{0,256})\]:\s+(?:count (?P<count>\d{1,18}), average -?\d{1,18}, total "
    r"(?P<total>\d{1,18})|(?P<value>\d{1,18}))\s*",
    re.ASCII,
)
_BYTES = re.compile(r"byte|size|mem|alloc|leak|outstanding", re.ASCII | re.IGNORECASE)
_CALLS = re.compile(r"count|calls|hits|times|num|nr_", re.ASCII | re.IGNORECASE)
_FREES = re.compile(r"free", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Outstanding:
    """Allocations of one stack."""

    bytes: int
    """0 where only their number is known."""
    calls: int
    """0 where only their bytes are known."""
    frames: tuple[tuple[str, str], ...]
    """(function, module or ""), innermost first."""
    cache: str = ""
    """Where the source names it."""

    @property
    def origin(self) -> tuple[str, str]:
        """Who asked for the memory, as far as the stack tells."""
        at = beyond_helpers(name for name, _ in self.frames)
        return self.frames[at] if at is not None else ("", "")


@dataclass(frozen=True)
class OutstandingTable:
    """What one source saw."""

    by: str
    """``memleak``, ``bpftrace's map @NAME``, ``the kernel's TRACE lines``."""
    counts: Counts
    """What its numbers are: ``unknown`` ones are in `bytes`."""
    stacks: tuple[Outstanding, ...]
    """Most bytes first."""
    damaged: int = 0


def parse_memleak(lines: Iterable[str]) -> OutstandingTable | None:
    """The last table's stacks with what they hold."""
    found: list[tuple[int, int, list[tuple[str, str]]]] = []
    damaged = 0
    for line in lines:
        if _TABLE.fullmatch(line):
            found, damaged = [], 0
        elif stack := _STACK.fullmatch(line):
            if len(found) < MOST_STACKS:
                found.append((int(stack[1]), int(stack[2]), []))
        elif found and (frame := _frame(line)):
            if len(found[-1][2]) < MOST_FRAMES:
                found[-1][2].append(frame)
        else:
            damaged += bool(line.strip()) and not _ASIDE.fullmatch(line)
    stacks = [Outstanding(size, calls, tuple(frames)) for size, calls, frames in found]
    return OutstandingTable("memleak", "bytes", largest_first(stacks), damaged)


def parse_bpftrace(lines: Iterable[str]) -> OutstandingTable | None:
    """The map with the largest sum, its entries summed by stack; maps of frees are no answer."""
    maps: dict[str, dict[tuple[tuple[str, str], ...], list[int]]] = {}
    name, counted, damaged = "", False, 0
    frames: list[tuple[str, str]] | None = None
    for line in lines:
        if start := _MAP.match(line):
            name, frames, line = start[1], [], start[2]
        if frames is None:
            damaged += bool(line.strip())
        elif end := _MAP_END.fullmatch(line):
            _flat(frames, end["key"])
            counted |= bool(end["count"])
            entry = maps.setdefault(name, {}).setdefault(tuple(frames), [0, 0])
            entry[0] += int(end["total"] or end["value"])
            entry[1] += int(end["count"] or 0)
            frames = None
        elif frame := _frame(line):
            if len(frames) < MOST_FRAMES:
                frames.append(frame)
        elif line.strip() and not line.rstrip().endswith(","):  # "comm," before the stack
            damaged += 1
    maps = {n: stacks for n, stacks in maps.items() if any(stacks)} or maps
    kept = {n: stacks for n, stacks in maps.items() if not _FREES.search(n)} or maps
    if not kept:
        return OutstandingTable("bpftrace", "unknown", (), damaged)
    name = max(kept, key=lambda n: sum(size for size, _ in kept[n].values()))
    counts: Counts = "unknown"
    if counted or _BYTES.search(name):
        counts = "bytes"
    elif _CALLS.search(name):
        counts = "allocations"
    some = list(kept[name].items())[:MOST_STACKS]
    found = [Outstanding(size, calls, frames) for frames, (size, calls) in some]
    return OutstandingTable(f"bpftrace's map @{name}", counts, largest_first(found), damaged)


def _flat(frames: list[tuple[str, str]], key: str) -> None:
    """A map whose keys are functions, not stacks: ``@[kmalloc_leak]: 4096``."""
    if not frames and (frame := _frame(key.rsplit(",", 1)[-1])):
        frames.append(frame)


def _frame(line: str) -> tuple[str, str] | None:
    match = _FRAME.fullmatch(line)
    if match is None:
        return None
    module = (match["module"] or "").rsplit("/", 1)[-1].split(".ko", 1)[0]
    return match["name"], "" if module in _NO_MODULES else module


def largest_first(stacks: Iterable[Outstanding]) -> tuple[Outstanding, ...]:
    """Most bytes, or else most allocations, first."""
    return tuple(sorted(stacks, key=lambda s: (-s.bytes, -s.calls, s.frames)))

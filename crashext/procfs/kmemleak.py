"""/sys/kernel/debug/kmemleak, grouped by call stack.

Shapes of mm/kmemleak.c, 2.6.31 to 6.18: with and without hex dump (2.6.33), age (dropped in 6.9),
``backtrace (crc ...)`` (6.7), addresses before the frames, per-CPU objects (6.13), and the same in
a kernel log. kmemleak's own limits stay: it sees neither pages nor what only looks referenced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from crashext.hosts.base import U64
from crashext.procfs.stacks import MAX_FRAMES, FrameReader, PrintedFrame, module_of, origin

_MAX_GROUPS = 1 << 14
_MAX_DUMP = 64
_LOG = re.compile(r"^\s*(?:<\d>)?\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])?\s?(?:kmemleak: )?", re.ASCII)
_OBJECT = re.compile(
    r"(?:kmemleak: )?unreferenced (percpu )?object (\(percpu\) )?"
    r"0x([0-9a-f]{1,16}) \(size (\d{1,19})\):",
    re.ASCII,
)
_COMM = re.compile(
    r'comm "(.{0,64})", pid (-?\d{1,10}), jiffies (\d{1,20})'
    r"(?: \(age (-?\d{1,12})\.(\d{1,3})s\))?",
    re.ASCII | re.DOTALL,
)
_DUMP = re.compile(r"hex dump \(first \d{1,4} bytes(?: on cpu \d{1,5})?\):", re.ASCII)
_BYTES = re.compile(r"((?:[0-9a-f]{2}(?: |$)){1,32}).*", re.ASCII)
_TRACE = re.compile(r"backtrace(?: \(crc ([0-9a-f]{1,8})\))?:", re.ASCII)
_NOISE = frozenset(("BUG: memory leak", "..."))


@dataclass(frozen=True)
class KmemleakGroup:
    """Unreferenced objects with one call stack."""

    frames: tuple[PrintedFrame, ...]
    """Innermost first; empty where the report ends before the stack."""
    count: int
    size: int
    """Bytes of all of them."""
    smallest: int
    largest: int
    """Bytes of one."""
    example: U64
    """Address of the first of them."""
    content: bytes
    """Its first bytes, as far as the report shows them."""
    comm: str
    pid: int | None
    """Of the first of them; "" and None where the report does not say."""
    age: tuple[float, float] | None
    """Youngest and oldest in seconds; None since 6.9, which prints none."""
    jiffies: tuple[int, int] | None
    """First and last time of allocation."""
    percpu: bool
    origin: PrintedFrame | None = field(init=False)
    """The innermost frame that is no allocator's."""
    module: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", origin(self.frames))
        object.__setattr__(self, "module", module_of(self.frames))


@dataclass(frozen=True)
class KmemleakReport:
    """All of a kmemleak file."""

    groups: tuple[KmemleakGroup, ...]
    """Most bytes first."""
    objects: int
    size: int
    """Bytes of all objects."""
    ungrouped: int = 0
    """Objects beyond the groups that are kept."""
    damaged: int = 0


@dataclass
class _Object:
    """One block while it is read."""

    address: U64
    size: int
    percpu: bool
    comm: str = ""
    pid: int | None = None
    jiffies: int | None = None
    age: float | None = None
    content: bytes = b""
    part: str = "head"
    """Which lines come next: head, dump, or trace."""


class _Groups:
    """Sums by stack."""

    def __init__(self) -> None:
        self._first: dict[tuple[PrintedFrame, ...], _Object] = {}
        self._sums: dict[tuple[PrintedFrame, ...], list[int]] = {}  # count, bytes, least, most
        self._age: dict[tuple[PrintedFrame, ...], tuple[float, float]] = {}
        self._jiffies: dict[tuple[PrintedFrame, ...], tuple[int, int]] = {}
        self.objects = self.size = self.ungrouped = 0

    def add(self, item: _Object, frames: tuple[PrintedFrame, ...]) -> None:
        self.objects += 1
        self.size += item.size
        if frames not in self._sums:
            if len(self._sums) >= _MAX_GROUPS:
                self.ungrouped += 1
                return
            self._first[frames] = item
            self._sums[frames] = [0, 0, item.size, item.size]
        sums = self._sums[frames]
        sums[0] += 1
        sums[1] += item.size
        sums[2] = min(sums[2], item.size)
        sums[3] = max(sums[3], item.size)
        if item.age is not None:
            low, high = self._age.get(frames, (item.age, item.age))
            self._age[frames] = (min(low, item.age), max(high, item.age))
        if item.jiffies is not None:
            first, last = self._jiffies.get(frames, (item.jiffies, item.jiffies))
            self._jiffies[frames] = (min(first, item.jiffies), max(last, item.jiffies))

    def result(self) -> tuple[KmemleakGroup, ...]:
        groups = [
            KmemleakGroup(
                frames,
                count,
                size,
                least,
                most,
                first.address,
                first.content,
                first.comm,
                first.pid,
                self._age.get(frames),
                self._jiffies.get(frames),
                first.percpu,
            )
            for frames, first in self._first.items()
            for count, size, least, most in (self._sums[frames],)
        ]
        return tuple(sorted(groups, key=lambda g: (-g.size, -g.count, g.example)))


def parse_kmemleak(lines: Iterable[str]) -> KmemleakReport:
    """Group the blocks of a report. Lines outside a block, or of no known shape, are damage."""
    groups = _Groups()
    parse_frame = FrameReader()
    item: _Object | None = None
    frames: list[PrintedFrame] = []
    damaged = 0
    for raw in lines:
        line = _LOG.sub("", raw, count=1).strip()
        if not line or line in _NOISE:
            continue
        if head := _OBJECT.fullmatch(line):
            if item is not None:
                groups.add(item, tuple(frames))
            percpu = bool(head[1] or head[2])
            item, frames = _Object(U64(head[3], 16), int(head[4]), percpu), []
        elif item is None:
            damaged += 1
        elif item.part == "trace":
            frame = parse_frame(line)
            if frame is None:
                damaged += 1
            elif len(frames) < MAX_FRAMES:
                frames.append(frame)
        else:
            damaged += not _detail(item, line)
    if item is not None:
        groups.add(item, tuple(frames))
    return KmemleakReport(groups.result(), groups.objects, groups.size, groups.ungrouped, damaged)


def _detail(item: _Object, line: str) -> bool:
    """Take a line between an object's head and its stack; False where it is none of them."""
    if _TRACE.fullmatch(line):
        item.part = "trace"
    elif _DUMP.fullmatch(line):
        item.part = "dump"
    elif said := _COMM.fullmatch(line):
        item.comm, item.pid, item.jiffies = said[1], int(said[2]), int(said[3])
        if said[4]:
            item.age = float(f"{said[4]}.{said[5]}")
    elif item.part == "dump" and (shown := _BYTES.fullmatch(line)):
        item.content = (item.content + bytes.fromhex(shown[1]))[:_MAX_DUMP]
    else:
        return False
    return True

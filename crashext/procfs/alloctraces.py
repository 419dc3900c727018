"""Who allocated the objects of a cache, as the kernel itself sums it up.

alloc_traces (debugfs since 5.14) and alloc_calls (sysfs before) need slub_debug=U; /proc/allocinfo
needs memory allocation profiling (6.10). Sources: mm/slub.c, lib/alloc_tag.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from crashext.procfs.stacks import MAX_FRAMES, PrintedFrame, parse_frame

_MAX_SITES = 1 << 17
# 18000 alloc_fair_sched_group+0xec/0x1e0 waste=0/0 age=2579/19587/286617 pid=1-8462 cpus=0-1
_SITE = re.compile(
    r"\s*(\d{1,15}) (<not-available>|\S+(?: \[[\w-]{1,64}\])?)((?: \w+=\S+)+)\s*", re.ASCII
)
_RANGE = re.compile(r"(-?\d{1,19})(?:[-/](-?\d{1,19}))?(?:/(-?\d{1,19}))?", re.ASCII)
_TAG = re.compile(
    r"\s*(-?\d{1,19}(?:\.\d{1,9})?)(?:\s?([KMGTP])(?:i?B)?|B)?\s+(\d{1,19})"
    r"\s+(\S{1,512}):(\d{1,7})(?:\s+\[([\w-]{1,64})\])?"
    r"\s+func:(\S{1,256})(\s+accurate:no)?\s*",
    re.ASCII,
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_HEADING = re.compile(r"(?:allocinfo - version: .*|#?\s*<size>.*|Memory allocations:)", re.ASCII)


@dataclass(frozen=True)
class AllocTrace:
    """Objects of one cache that one place allocated. None where the kernel does not say."""

    count: int
    site: PrintedFrame | None
    """None is the kernel's ``<not-available>``."""
    age: tuple[int, int, int] | None
    """Jiffies since the allocation: least, average, most."""
    pids: tuple[int, int] | None
    """Lowest and highest."""
    cpus: str
    nodes: str
    """Lists as printed (``0-3,8``); "" where the machine has one of them."""
    frames: tuple[PrintedFrame, ...]
    """The whole stack (5.19+), innermost first; else empty."""


@dataclass(frozen=True)
class AllocTraces:
    """One cache's alloc_traces or alloc_calls."""

    sites: tuple[AllocTrace, ...]
    """Most objects first."""
    damaged: int = 0
    objects: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", sum(s.count for s in self.sites))


@dataclass(frozen=True, slots=True)
class AllocTag:
    """One line of source that allocates, and what it holds now."""

    bytes: int
    calls: int
    file: str
    line: int
    module: str
    function: str
    accurate: bool
    unit: int = 1
    """Bytes to which the size was rounded up."""


@dataclass(frozen=True)
class AllocInfo:
    """/proc/allocinfo, without the lines that hold nothing."""

    tags: tuple[AllocTag, ...]
    """Most bytes first."""
    damaged: int = 0


def parse_alloc_traces(lines: Iterable[str]) -> AllocTraces:
    """Places, with their stacks where the kernel prints them."""
    found: list[tuple[re.Match[str], list[PrintedFrame]]] = []
    damaged = 0
    for line in lines:
        text = line.strip()
        if not text or text == "No data":
            continue
        if match := _SITE.fullmatch(line):
            if len(found) < _MAX_SITES:
                found.append((match, []))
            else:
                damaged += 1
        elif found and line[:1] in " \t" and (frame := parse_frame(line)):
            if len(found[-1][1]) < MAX_FRAMES:
                found[-1][1].append(frame)
        else:
            damaged += 1
    sites = [_site(match, frames) for match, frames in found]
    return AllocTraces(tuple(sorted(sites, key=lambda s: -s.count)), damaged)


def parse_allocinfo(lines: Iterable[str]) -> AllocInfo:
    """Tags that hold memory. Sizes are bytes, or have a unit (numfmt --to=iec; an OOM report)."""
    tags: list[AllocTag] = []
    damaged = 0
    for line in lines:
        match = _TAG.fullmatch(line)
        if match is None:
            damaged += bool(line.strip()) and not _HEADING.fullmatch(line.strip())
            continue
        size = round(float(match[1]) * _UNITS[match[2]]) if match[2] else int(float(match[1]))
        if size > 0 and len(tags) < _MAX_SITES:
            tags.append(
                AllocTag(
                    size,
                    int(match[3]),
                    match[4],
                    int(match[5]),
                    match[6] or "",
                    match[7],
                    match[8] is None,
                    _UNITS[match[2]] // (10 if "." in match[1] else 1) if match[2] else 1,
                )
            )
    return AllocInfo(tuple(sorted(tags, key=lambda t: (-t.bytes, t.file, t.line))), damaged)


def sharpened(info: AllocInfo, page_size: int) -> AllocInfo:
    """Sizes that were rounded for reading, by their calls where those are of one page each."""

    def exact(tag: AllocTag) -> AllocTag:
        size = tag.calls * page_size
        return replace(tag, bytes=size, unit=1) if abs(size - tag.bytes) < tag.unit else tag

    if all(tag.unit == 1 for tag in info.tags):
        return info
    tags = (exact(tag) if tag.unit > 1 else tag for tag in info.tags)
    return replace(info, tags=tuple(sorted(tags, key=lambda t: (-t.bytes, t.file, t.line))))


def _site(match: re.Match[str], frames: list[PrintedFrame]) -> AllocTrace:
    said = dict(word.split("=", 1) for word in match[3].split())
    age, pids = _numbers(said.get("age", "")), _numbers(said.get("pid", ""))
    return AllocTrace(
        int(match[1]),
        None if match[2] == "<not-available>" else parse_frame(match[2]) or PrintedFrame(match[2]),
        (age[0], age[len(age) // 2], age[-1]) if age else None,
        (pids[0], pids[-1]) if pids else None,
        said.get("cpus", ""),
        said.get("nodes", ""),
        tuple(frames),
    )


def _numbers(text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    return [int(n) for n in match.groups() if n is not None] if match else []

"""Counters as text: /proc/meminfo, vmstat, buddyinfo and zoneinfo.

Sources: fs/proc/meminfo.c and mm/vmstat.c, 3.10 to 6.18. Every parser takes any lines and raises
nothing; a line of no known shape is skipped and counted in `damaged`. Blank lines are no lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MAX_NAMES = 4096
_MAX_ZONES = 16384
_PAGE_SIZES = tuple(1 << n for n in range(12, 19))
_BOTH = (
    ("Mapped", "nr_mapped"),
    ("AnonPages", "nr_anon_pages"),
    ("SReclaimable", "nr_slab_reclaimable"),
    ("SUnreclaim", "nr_slab_unreclaimable"),
    ("MemFree", "nr_free_pages"),
)
"""Lines of meminfo, and what vmstat calls them."""
_SIZE = re.compile(r"\s*([A-Za-z][\w() -]{0,62}?):\s*(\d{1,20})(\s+kB)?\s*", re.ASCII)
_COUNTER = re.compile(r"\s*([A-Za-z_][\w-]{0,63})[:\s]\s*(\d{1,20})\s*", re.ASCII)
_BUDDY = re.compile(r"Node\s+(\d{1,5}), zone\s+(\w{1,32})((?:\s+\d{1,20}){1,32})\s*", re.ASCII)
_ZONE = re.compile(r"Node\s+(\d{1,5}), zone\s+(\w{1,32})\s*", re.ASCII)
_PAGES_FREE = re.compile(r"\s*pages free\s+(\d{1,20})\s*", re.ASCII)
# Lines of zoneinfo that are not one counter each: headings, per-CPU lists, protection.
_ZONE_HEADING = re.compile(
    r"\s*(?:per-node stats|pagesets|protection: \(.*\)|cpu: \d+|pages free .*|"
    r"(?:all_unreclaimable|start_pfn|prev_priority|temp_priority|inactive_ratio|vm stats threshold|"
    r"count|high|batch|high_min|high_max)\s*:.*)",
    re.ASCII,
)


@dataclass(frozen=True)
class MemInfo:
    """/proc/meminfo, every line, known or not."""

    sizes: Mapping[str, int]
    """Name -> bytes, of the lines that say kB."""
    counts: Mapping[str, int]
    """Name -> number, of those that do not (``HugePages_Total``)."""
    damaged: int = 0

    def get(self, name: str) -> int | None:
        """Bytes of a line; None where this kernel prints no such line."""
        return self.sizes.get(name)


@dataclass(frozen=True)
class Counters:
    """Names and numbers: /proc/vmstat (pages, or events)."""

    values: Mapping[str, int]
    damaged: int = 0


@dataclass(frozen=True)
class FreeBlocks:
    """One zone of buddyinfo: free blocks by order."""

    node: int
    zone: str
    blocks: tuple[int, ...]

    @property
    def pages(self) -> int:
        return sum(n << order for order, n in enumerate(self.blocks))


@dataclass(frozen=True)
class BuddyInfo:
    """/proc/buddyinfo."""

    zones: tuple[FreeBlocks, ...]
    damaged: int = 0


@dataclass(frozen=True)
class Zone:
    """One zone of zoneinfo, in pages."""

    node: int
    zone: str
    values: Mapping[str, int] = field(default_factory=dict)
    """``free``, the marks ``min`` ``low`` ``high``, ``spanned``, ``present``, ``managed`` (3.10+),
    and the ``nr_`` counters; of the node too in its first populated zone (4.8+)."""


@dataclass(frozen=True)
class ZoneInfo:
    """/proc/zoneinfo."""

    zones: tuple[Zone, ...]
    damaged: int = 0


def parse_meminfo(lines: Iterable[str]) -> MemInfo:
    """Sizes in bytes. Where a name comes twice the first line counts, the other is damage."""
    sizes: dict[str, int] = {}
    counts: dict[str, int] = {}
    damaged = 0
    for line in lines:
        match = _SIZE.fullmatch(line)
        if match is None:
            damaged += bool(line.strip())
            continue
        into, scale = (sizes, 1024) if match[3] else (counts, 1)
        if match[1] in into or len(into) >= _MAX_NAMES:
            damaged += 1
        else:
            into[match[1]] = int(match[2]) * scale
    return MemInfo(sizes, counts, damaged)


def parse_vmstat(lines: Iterable[str]) -> Counters:
    """Counters by name."""
    values: dict[str, int] = {}
    damaged = 0
    for line in lines:
        match = _COUNTER.fullmatch(line)
        if match is not None and match[1] not in values and len(values) < _MAX_NAMES:
            values[match[1]] = int(match[2])
        else:
            damaged += bool(line.strip())
    return Counters(values, damaged)


def parse_buddyinfo(lines: Iterable[str]) -> BuddyInfo:
    """Free blocks of each zone."""
    zones: list[FreeBlocks] = []
    damaged = 0
    for line in lines:
        match = _BUDDY.fullmatch(line)
        if match is not None and len(zones) < _MAX_ZONES:
            blocks = tuple(int(n) for n in match[3].split())
            zones.append(FreeBlocks(int(match[1]), match[2], blocks))
        else:
            damaged += bool(line.strip())
    return BuddyInfo(tuple(zones), damaged)


def parse_zoneinfo(lines: Iterable[str]) -> ZoneInfo:
    """Counters of each zone; those of per-CPU lists are left out."""
    zones: list[tuple[int, str, dict[str, int]]] = []
    damaged = 0
    in_cpu_lists = False
    for line in lines:
        if head := _ZONE.fullmatch(line):
            in_cpu_lists = False
            if len(zones) < _MAX_ZONES:
                zones.append((int(head[1]), head[2], {}))
            else:
                damaged += 1
        elif not line.strip():
            continue
        elif not zones:
            damaged += 1
        elif free := _PAGES_FREE.fullmatch(line):
            zones[-1][2].setdefault("free", int(free[1]))
        elif _ZONE_HEADING.fullmatch(line):
            in_cpu_lists = in_cpu_lists or line.strip() == "pagesets"
        elif (match := _COUNTER.fullmatch(line)) is None:
            damaged += 1
        elif not in_cpu_lists and len(zones[-1][2]) < _MAX_NAMES:
            zones[-1][2].setdefault(match[1], int(match[2]))
    return ZoneInfo(tuple(Zone(*z) for z in zones), damaged)


def page_size(meminfo: MemInfo | None, vmstat: Counters | None) -> int | None:
    """Bytes of a page: what meminfo has in kB, vmstat has in pages. None where neither says.

    The files are read a moment apart, and hypervisors touch up MemFree: the nearest power of two
    of most lines is taken.
    """
    if meminfo is None or vmstat is None:
        return None
    votes: Counter[int] = Counter()
    for name, counter in _BOTH:
        size, pages = meminfo.get(name), vmstat.values.get(counter)
        if size and pages:
            near = min(_PAGE_SIZES, key=lambda p: abs(size - pages * p))
            votes[near] += 1
    return min(votes, key=lambda p: (-votes[p], p), default=None)


def page_size_of_slabs(lines: Iterable[tuple[int, int, int]]) -> int | None:
    """Least size of a page by (bytes of an object, objects, pages of a slab) of every cache.

    Only where it is more than the smallest that there is do the lines prove anything.
    """
    need = max((size * objects / pages for size, objects, pages in lines if pages), default=0.0)
    if need <= _PAGE_SIZES[0]:
        return None
    return next((p for p in _PAGE_SIZES if p >= need), None)

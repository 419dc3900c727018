"""Saved crash sessions: `kmem -i` (how memory is split) and `kmem -s` (every cache).

Shapes of crash's memory.c (4.0 to 8.0.6); drgn-tools' slabinfo prints the same table. What crash
could not gather it shows as "?": that is kept apart, not taken for nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from crashext.procfs.counters import Counters, MemInfo
from crashext.procfs.slabinfo import SlabInfo, SlabLine

_MAX_CACHES = 1 << 16
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_PAGE_SIZES = tuple(1 << n for n in range(12, 17))
_SPLIT = re.compile(
    r"\s*([A-Z][A-Z ]{1,20}?)\s+(\d{1,15})\s+(\d{1,12}(?:\.\d)?)\s?([KMGT]?B|bytes)?\b.*", re.ASCII
)
_LINES = {
    "TOTAL MEM": "MemTotal",
    "FREE": "MemFree",
    "BUFFERS": "Buffers",
    "CACHED": "Cached",
    "SLAB": "Slab",
    "TOTAL HUGE": "Hugetlb",
    "TOTAL SWAP": "SwapTotal",
    "COMMITTED": "Committed_AS",
}
_MEMORY = re.compile(r"\s*MEMORY: (\d{1,9}(?:\.\d{1,2})?) ([KMGT]B)\s*", re.ASCII)
_COUNTER = re.compile(r"\s*(NR_[A-Z_0-9]{1,60}): (\d{1,18})\s*", re.ASCII)
# VMAP_AREA VM_STRUCT ADDRESS RANGE SIZE; before 3.10 without the first.
_AREA = re.compile(
    r"\s*[0-9a-f]{8,16}\s+(?:[0-9a-f]{8,16}\s+)?([0-9a-f]{8,16}) - ([0-9a-f]{8,16})"
    r"\s+(\d{1,15})\s*",
    re.ASCII,
)
_COUNTERS = {
    "NR_FREE_PAGES": "MemFree",
    "NR_ANON_MAPPED": "AnonPages",
    "NR_ANON_PAGES": "AnonPages",
    "NR_SHMEM": "Shmem",
    "NR_SLAB_RECLAIMABLE": "SReclaimable",
    "NR_SLAB_RECLAIMABLE_B": "SReclaimable",
    "NR_SLAB_UNRECLAIMABLE": "SUnreclaim",
    "NR_SLAB_UNRECLAIMABLE_B": "SUnreclaim",
    "NR_PAGETABLE": "PageTables",
    "NR_FILE_PAGES": "Cached",
    "NR_BOUNCE": "Bounce",
    "NR_WRITEBACK_TEMP": "WritebackTmp",
}
# Before 7.2 the name came second: CACHE NAME OBJSIZE ALLOCATED TOTAL SLABS SSIZE.
_NEW = re.compile(
    r"\s*[0-9a-f]{8,16}\s+(\d{1,12})\s+(\d{1,15}|\?)\s+(\d{1,15}|\?)\s+(\d{1,15}|\?)"
    r"\s+(\d{1,9})k\s+(\S.{0,255}?)\s*",
    re.ASCII,
)
_OLD = re.compile(
    r"\s*[0-9a-f]{8,16}\s+(\S{1,64})\s+(\d{1,12})\s+(\d{1,15}|\?)\s+(\d{1,15}|\?)\s+(\d{1,15}|\?)"
    r"\s+(\d{1,9})k\s*",
    re.ASCII,
)
_ASIDE = re.compile(r"\s*(?:CACHE\s.*|kmem: .*|\S+\s+\[IGNORED\].*)", re.ASCII)


@dataclass(frozen=True)
class CrashSplit:
    """kmem -i."""

    sizes: MemInfo
    page_size: int | None


@dataclass(frozen=True)
class CrashCaches:
    """kmem -s."""

    slabs: SlabInfo
    uncounted: tuple[str, ...]
    """Caches of which crash could gather nothing."""


@dataclass(frozen=True)
class CrashAreas:
    """kmem -v: vmalloc space, devices' memory included. It has no callers, and no pages."""

    areas: int
    bytes: int
    largest: int
    damaged: int = 0


def parse_kmem_areas(lines: Iterable[str]) -> CrashAreas:
    """kmem -v: how many areas there are, and what they span, guard pages included."""
    sizes: list[int] = []
    damaged = 0
    for line in lines:
        if (match := _AREA.fullmatch(line)) and int(match[2], 16) > int(match[1], 16):
            sizes.append(int(match[3]))
        else:
            damaged += bool(line.strip()) and "ADDRESS RANGE" not in line
    return CrashAreas(len(sizes), sum(sizes), max(sizes, default=0), damaged)


def parse_kmem_i(lines: Iterable[str]) -> CrashSplit:
    """Sizes in bytes, by the names of meminfo."""
    pages: dict[str, int] = {}
    votes: Counter[int] = Counter()
    for line in lines:
        match = _SPLIT.fullmatch(line)
        name = _LINES.get(match[1].strip()) if match else None
        if match is None or name is None or name in pages:
            continue
        pages[name] = int(match[2])
        size = float(match[3]) * _UNITS.get(match[4] or "", 1)
        if pages[name] and size:
            votes[min(_PAGE_SIZES, key=lambda p: abs(size - pages[name] * p))] += 1
    page = min(votes, key=lambda p: (-votes[p], p), default=None)
    sizes = {name: number * (page or 4096) for name, number in pages.items()}
    return CrashSplit(MemInfo(sizes, {}), page)


def parse_sys(lines: Iterable[str]) -> MemInfo:
    """What crash shows when it starts: ``MEMORY: 62.6 GB``, a little more than MemTotal."""
    for line in lines:
        if match := _MEMORY.fullmatch(line):
            return MemInfo({"MemTotal": round(float(match[1]) * _UNITS[match[2]])}, {})
    return MemInfo({}, {})


def parse_kmem_v(lines: Iterable[str]) -> Counters:
    """kmem -V: the kernel's counters in pages, by the names of meminfo; stacks in kB."""
    found: dict[str, int] = {}
    for line in lines:
        match = _COUNTER.fullmatch(line)
        name = _COUNTERS.get(match[1], match[1]) if match else ""
        if match and len(found) < _MAX_CACHES:
            found.setdefault(name, int(match[2]))
    return Counters(found)


def with_counters(split: MemInfo, counters: Counters, page_size: int) -> MemInfo:
    """kmem -i with what kmem -V tells besides."""
    told = {n: v * page_size for n, v in counters.values.items() if not n.startswith("NR_")}
    if "NR_KERNEL_STACK_KB" in counters.values:
        told["KernelStack"] = counters.values["NR_KERNEL_STACK_KB"] * 1024
    return MemInfo({**told, **split.sizes}, split.counts, split.damaged)


def parse_kmem_s(lines: Iterable[str], page_size: int) -> CrashCaches:
    """Rows of every cache."""
    caches: dict[str, SlabLine] = {}
    uncounted: list[str] = []
    damaged = ignored = 0
    for line in lines:
        if match := _NEW.fullmatch(line):
            size, counts, kib, name = match[1], match.group(2, 3, 4), match[5], match[6]
        elif match := _OLD.fullmatch(line):
            name, size, counts, kib = match[1], match[2], match.group(3, 4, 5), match[6]
        else:
            damaged += bool(line.strip()) and not _ASIDE.fullmatch(line)
            ignored += "[IGNORED]" in line
            continue
        if "?" in counts:
            uncounted.append(name)
        elif len(caches) < _MAX_CACHES:
            allocated, total, slabs = (int(c) for c in counts)
            per_slab = total // slabs if slabs else 0
            pages = max(1, int(kib) * 1024 // page_size)
            caches[name] = SlabLine(
                name, allocated, total, int(size), per_slab, pages, slabs, slabs
            )
    whole = not (uncounted or damaged or ignored)
    return CrashCaches(SlabInfo(tuple(caches.values()), "crash", damaged, whole), tuple(uncounted))

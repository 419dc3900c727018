"""slabtop, and the kernel's "Unreclaimable slab info" in a log: caches without /proc/slabinfo.

Sources: procps slabtop.c (3.x, 4.x), mm/slab_common.c dump_unreclaimable_slab() (4.15 to 6.18).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from crashext.procfs.slabinfo import SlabInfo, SlabLine

_MAX_CACHES = 1 << 16
_KIB = 1024
_ROW = re.compile(
    r"\s*(\d{1,15})\s+(\d{1,15})\s+\d{1,3}%\s+(\d{1,9}(?:[.,]\d{1,3})?)K\s+(\d{1,15})\s+(\d{1,9})"
    r"\s+(\d{1,15})K\s+(\S.{0,255}?)\s*",
    re.ASCII,
)
_TOTAL = re.compile(r"\s*Active / Total Caches.*/\s*(\d{1,9})\b.*", re.ASCII)
_HEADING = re.compile(r"\s*(?:Active / Total |Minimum / Average|OBJS\s+ACTIVE).*", re.ASCII)
_UNRECLAIMABLE = re.compile(r"\s*(\S{1,255})\s+(\d{1,12})KB\s+(\d{1,12})KB\s*", re.ASCII)


def parse_slabtop(lines: Iterable[str], page_size: int) -> SlabInfo:
    """Every row; the size of an object is that of its slot as far as two digits tell."""
    caches: dict[str, SlabLine] = {}
    damaged = 0
    total = _MAX_CACHES
    for line in lines:
        if heading := _TOTAL.fullmatch(line):
            total = int(heading[1])
        match = _ROW.fullmatch(line)
        if match is None or len(caches) >= _MAX_CACHES:
            damaged += bool(line.strip()) and not _HEADING.fullmatch(line)
            continue
        objects, active, slabs, each, kib = (int(match[i]) for i in (1, 2, 4, 5, 6))
        pages = kib * _KIB // page_size
        per_slab = pages // slabs if slabs else 0
        # The printed size is rounded to 10 bytes; what fits into a slab is at least as exact.
        size = round(float(match[3].replace(",", ".")) * _KIB)
        if per_slab and each:
            size = min(size + 8, per_slab * page_size // each) // 8 * 8
        caches.setdefault(
            match[7], SlabLine(match[7], active, objects, size, each, per_slab, slabs, slabs)
        )
    return SlabInfo(tuple(caches.values()), "slabtop", damaged, len(caches) >= total)


def parse_unreclaimable(lines: Iterable[str], page_size: int) -> SlabInfo:
    """Caches that an OOM report lists. It counts no objects: those here are of one byte."""
    caches: dict[str, SlabLine] = {}
    for line in lines:
        if (match := _UNRECLAIMABLE.fullmatch(line)) and len(caches) < _MAX_CACHES:
            used, total = int(match[2]) * _KIB, int(match[3]) * _KIB
            slabs = -(-total // page_size)
            caches[match[1]] = SlabLine(match[1], used, total, 1, page_size, 1, slabs, slabs)
    return SlabInfo(tuple(caches.values()), "oom", 0, False)

"""Caches as other tools list them: the kernel's own `slabinfo` (tools/mm), and `vmstat -m`.

Sources: tools/mm/slabinfo.c (tools/vm before 6.3), procps vmstat.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from crashext.procfs.slabinfo import SlabInfo, SlabLine

_MAX_CACHES = 1 << 16
# Name Objects Objsize Space Slabs/Part/Cpu O/S O %Fr %Ef Flg: slabs on CPUs are not in the first.
_TOOL = re.compile(
    r"\s*(\S{1,255})\s+(\d{1,15})\s+(\d{1,9})\s+[\d.]{1,15}[KMGT]?\s+(\d{1,15})/\d{1,15}/(\d{1,9})"
    r"\s+(\d{1,9})\s+(\d{1,2})\s+\d{1,3}\s+\d{1,3}(?:\s+\S+)?\s*",
    re.ASCII,
)
_VMSTAT_M = re.compile(
    r"\s*(\S{1,255})\s+(\d{1,15})\s+(\d{1,15})\s+(\d{1,12})\s+(\d{1,9})\s*", re.ASCII
)
_HEADING = re.compile(r"\s*(?:Name\s+Objects\s+Objsize|Cache\s+Num\s+Total).*", re.ASCII)


def parse_slabinfo_tool(lines: Iterable[str]) -> SlabInfo:
    """Every row; a merged cache has a name such as ``:0000192``."""
    caches: dict[str, SlabLine] = {}
    damaged = 0
    for line in lines:
        match = _TOOL.fullmatch(line)
        if match is None or len(caches) >= _MAX_CACHES:
            damaged += bool(line.strip()) and not _HEADING.fullmatch(line)
            continue
        objects, size, rest, on_cpus, each, order = (int(n) for n in match.groups()[1:])
        slabs, pages = rest + on_cpus, 1 << min(order, 30)
        caches.setdefault(
            match[1], SlabLine(match[1], objects, slabs * each, size, each, pages, slabs, slabs)
        )
    return SlabInfo(tuple(caches.values()), "table", damaged, not damaged)


def parse_vmstat_m(lines: Iterable[str], page_size: int) -> SlabInfo:
    """Every row: objects in use, objects, bytes of one, objects of a slab."""
    caches: dict[str, SlabLine] = {}
    damaged = 0
    for line in lines:
        if _HEADING.fullmatch(line):
            continue
        match = _VMSTAT_M.fullmatch(line)
        if match is None or len(caches) >= _MAX_CACHES:
            damaged += bool(line.strip())
            continue
        active, objects, size, each = (int(n) for n in match.groups()[1:])
        pages = -(-each * size // page_size)
        slabs = -(-objects // each) if each else 0
        caches.setdefault(
            match[1], SlabLine(match[1], active, objects, size, each, pages, slabs, slabs)
        )
    return SlabInfo(tuple(caches.values()), "table", damaged, not damaged)

"""/proc/slabinfo: how much every cache has and uses.

Versions 2.0 and 2.1 with or without statistics (mm/slab_common.c, 2.6 to 6.18), and 1.1 (2.4).
It knows names and numbers, not what they mean together: see families.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_CACHES = 1 << 19  # memcg child caches come in tens of thousands
_N = r"\s{1,32}(\d{1,19})"  # a space, and columns that grow
# dentry  2369308 2369325    192   21    1 : tunables    0    0    0 : slabdata 112825 112825      0
# The name may have spaces: "kmalloc-64(12:my group)".
_LINE = re.compile(
    rf"(\S.{{0,255}}?){_N}{_N}{_N}{_N}{_N}\s?:\s?tunables(?:\s{{1,32}}\d+){{3}}\s?"
    rf":\s?slabdata{_N}{_N}\s{{1,32}}\d+(?:\s?:.*)?\s*",
    re.ASCII,
)
# 1.1: name, active, objects, size, active slabs, slabs, pages of a slab; then statistics.
_OLD_LINE = re.compile(rf"(\S.{{0,255}}?){_N}{_N}{_N}{_N}{_N}{_N}(?:\s?:.*)?\s*", re.ASCII)
# Volatility, drgn's tools/slabinfo.py: the same columns, without tunables, perhaps without slabs.
_PLAIN_LINE = re.compile(rf"\s*(\S.{{0,255}}?){_N}{_N}{_N}{_N}{_N}(?:{_N}{_N})?\s*", re.ASCII)
_PLAIN_HEADING = re.compile(r"\s*(?:# ?name|<name>)\s+<active_objs>(?!.*tunables).*", re.ASCII)
_VERSION = re.compile(r"slabinfo - version: (\d+\.\d+)(?: \(.*\))*\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class SlabLine:
    """One cache. Objects are counted as slabinfo does: those of per-CPU lists as active."""

    name: str
    active_objs: int
    num_objs: int
    objsize: int
    """Bytes from one object to the next, metadata included."""
    objperslab: int
    pagesperslab: int
    active_slabs: int
    num_slabs: int

    @property
    def pages(self) -> int:
        return self.num_slabs * self.pagesperslab

    @property
    def use(self) -> float:
        """Active share of the objects; 1 for an empty cache."""
        return self.active_objs / self.num_objs if self.num_objs else 1.0


@dataclass(frozen=True)
class SlabInfo:
    """/proc/slabinfo."""

    caches: tuple[SlabLine, ...]
    version: str = ""
    """``2.1``; "" where the first line is missing. Of other sources: ``slabtop``, ``oom``,
    ``crash``, ``table``."""
    damaged: int = 0
    whole: bool = True
    """False where caches are missing that the machine has: slabtop shows the largest, an OOM report
    the unreclaimable ones, and crash could not count some."""

    @property
    def counts_objects(self) -> bool:
        """An OOM report has bytes alone: its objects are of one byte."""
        return self.version != "oom"

    @property
    def pages(self) -> int:
        return sum(c.pages for c in self.caches)


def parse_slabinfo(lines: Iterable[str]) -> SlabInfo:
    """Every cache that has a whole line; without the heading, the version is told by shape."""
    caches: list[SlabLine] = []
    version = ""
    damaged = 0
    for line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith(("# name", "#name", "<name>")):
            version = version or ("table" if _PLAIN_HEADING.fullmatch(line) else "")
            continue
        if head := _VERSION.fullmatch(line):
            version = head[1]
            continue
        cache = _cache(line, version)
        if cache is None or len(caches) >= _MAX_CACHES:
            damaged += 1
        else:
            caches.append(cache)
    return SlabInfo(tuple(caches), version, damaged, not damaged)


def _cache(line: str, version: str) -> SlabLine | None:
    if match := _LINE.fullmatch(line):
        return SlabLine(match[1], *(int(n) for n in match.groups()[1:]))
    if version == "table":
        return _of_table(line)
    if not version.startswith("1.") or (match := _OLD_LINE.fullmatch(line)) is None:
        return None
    active, objects, size, active_slabs, slabs, pages = (int(n) for n in match.groups()[1:])
    per_slab = objects // slabs if slabs else 0
    return SlabLine(match[1], active, objects, size, per_slab, pages, active_slabs, slabs)


def _of_table(line: str) -> SlabLine | None:
    match = _PLAIN_LINE.fullmatch(line)
    if match is None:
        return None
    active, objects, size, each, pages = (int(n) for n in match.groups()[1:6])
    slabs = int(match[8]) if match[8] else -(-objects // each) if each else 0
    return SlabLine(match[1], active, objects, size, each, pages, slabs, slabs)

"""The kernel's own counts in saved texts: meminfo and slabinfo, or who says the same elsewhere.

An OOM report in a log, crash's kmem -i and -s, slabtop and free say less; where two of them are
there, the fuller one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from crashext.procfs.counters import (
    Counters,
    MemInfo,
    page_size,
    page_size_of_slabs,
    parse_meminfo,
    parse_vmstat,
)
from crashext.procfs.crashlists import (
    CrashCaches,
    CrashSplit,
    parse_kmem_i,
    parse_kmem_s,
    parse_kmem_v,
    parse_sys,
    with_counters,
)
from crashext.procfs.free import free_output
from crashext.procfs.oomlog import OomReport, parse_oom
from crashext.procfs.slabinfo import SlabInfo, parse_slabinfo
from crashext.procfs.slabtables import parse_slabinfo_tool, parse_vmstat_m
from crashext.procfs.slabtop import parse_slabtop

_USUAL_PAGE = 4096
T = TypeVar("T")


class Parsed(Protocol):
    """Reads and parses a kind; None where it is not there, or says nothing."""

    def __call__(self, kind: str, parse: Callable[[Iterator[str]], T]) -> T | None: ...


@dataclass(frozen=True)
class Counted:
    """Counters of one moment."""

    meminfo: MemInfo | None
    meminfo_from: str
    slabs: SlabInfo | None
    slabs_from: str
    vmstat: Counters | None
    page_size: int
    page_size_known: bool
    """False where 4096 is a guess."""
    oom: OomReport | None
    uncounted: tuple[str, ...]


def counted(parsed: Parsed) -> Counted:
    """The fullest counters that there are."""
    vmstat = parsed("vmstat", parse_vmstat)
    oom = parsed("oom", parse_oom)
    split = parsed("kmem_i", parse_kmem_i)
    crash = parsed("crash_sys", parse_sys)
    sources: list[tuple[str, MemInfo | None]] = [
        ("meminfo", parsed("meminfo", parse_meminfo)),
        ("kmem_i", _of_crash(split, parsed("kmem_v", parse_kmem_v), crash)),
        ("oom", oom.meminfo if oom is not None else None),
        ("free", parsed("free", free_output)),
        ("crash_sys", crash),
    ]
    told_by, meminfo = next(((n, m) for n, m in sources if m is not None), ("", None))
    slabs = parsed("slabinfo", parse_slabinfo)
    size = page_size(meminfo if told_by == "meminfo" else None, vmstat)
    size = size or (split.page_size if split else None) or (oom.page_size if oom else None)
    if size is None and slabs is not None:
        size = page_size_of_slabs((c.objsize, c.objperslab, c.pagesperslab) for c in slabs.caches)
    page = size or _USUAL_PAGE
    listed: CrashCaches | None = parsed("kmem_s", lambda lines: _crash(lines, page))
    lists: list[tuple[str, SlabInfo | None]] = [
        ("slabinfo", slabs),
        ("kmem_s", listed.slabs if listed is not None else None),
        ("slabtop", parsed("slabtop", lambda lines: parse_slabtop(lines, page))),
        ("slabinfo_tool", parsed("slabinfo_tool", parse_slabinfo_tool)),
        ("vmstat_m", parsed("vmstat_m", lambda lines: parse_vmstat_m(lines, page))),
        ("oom", oom.slabs if oom is not None else None),
    ]
    slabs_from, caches = next(((n, s) for n, s in lists if s is not None), ("", None))
    return Counted(
        meminfo,
        told_by,
        caches,
        slabs_from,
        vmstat,
        page,
        size is not None,
        oom,
        listed.uncounted if listed is not None and slabs_from == "kmem_s" else (),
    )


def _of_crash(
    split: CrashSplit | None, more: Counters | None, crash: MemInfo | None
) -> MemInfo | None:
    """kmem -i; without it the counters of kmem -V, with the memory that crash says there is."""
    if more is None:
        return split.sizes if split is not None else None
    sizes = split.sizes if split is not None else crash
    page = split.page_size if split is not None else None
    return with_counters(sizes or MemInfo({}, {}), more, page or _USUAL_PAGE)


def _crash(lines: Iterator[str], page: int) -> Any:
    return parse_kmem_s(lines, page)

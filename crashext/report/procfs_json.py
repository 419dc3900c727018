"""What `leakscan --procfs` read, beyond what a verdict needs, as plain data. Sizes in bytes."""

from __future__ import annotations

from typing import Any

from crashext.analysis.proc import ProcReport, Snapshot
from crashext.kernel.slab.families import Family
from crashext.procfs.kmemleak import KmemleakReport
from crashext.procfs.pageowner import PageOwner
from crashext.procfs.processes import Process
from crashext.procfs.stacks import PrintedFrame
from crashext.procfs.vmallocinfo import VmallocCaller

_MOST = 1000
"""Rows of any list: stacks come in tens of thousands."""


def proc_fields(report: ProcReport) -> dict[str, Any]:
    """The report as dicts, lists, numbers and strings. Lists hold the largest 1,000."""
    snapshot = report.snapshot
    return {
        "path": snapshot.path,
        "live": snapshot.live,
        "page_size": snapshot.page_size,
        "page_size_known": snapshot.page_size_known,
        "files": list(snapshot.files),
        "counts": {} if snapshot.meminfo is None else dict(snapshot.meminfo.counts),
        "families": [_family(f, snapshot.page_size) for f in report.families[:_MOST]],
        "vmalloc": [_caller(c, snapshot.page_size) for c in report.vmalloc[:_MOST]],
        "kmemleak": None if snapshot.kmemleak is None else _kmemleak(snapshot.kmemleak),
        "page_owner": None
        if snapshot.page_owner is None
        else _page_owner(snapshot.page_owner, snapshot.page_size),
        "alloc_traces": _traces(snapshot),
        "allocinfo": _allocinfo(snapshot),
        "processes": [_process(p) for p in report.processes[:_MOST]],
    }


def _family(family: Family, page: int) -> dict[str, Any]:
    return {
        "name": family.name,
        "bytes": family.pages * page,
        "active_objs": family.active_objs,
        "num_objs": family.num_objs,
        "num_slabs": family.num_slabs,
        "variants": list(family.variants),
        "members": [
            {
                "name": m.name,
                "bytes": m.pages * page,
                "active_objs": m.active_objs,
                "num_objs": m.num_objs,
                "objsize": m.objsize,
                "num_slabs": m.num_slabs,
            }
            for m in family.members[:_MOST]
        ],
    }


def _caller(caller: VmallocCaller, page: int) -> dict[str, Any]:
    return {
        "function": caller.function,
        "module": caller.module,
        "areas": caller.areas,
        "pages": caller.pages,
        "bytes": caller.pages * page,
        "stacks": caller.example.is_stack,
    }


def _kmemleak(found: KmemleakReport) -> dict[str, Any]:
    return {
        "objects": found.objects,
        "bytes": found.size,
        "ungrouped": found.ungrouped,
        "groups": [
            {
                "count": g.count,
                "bytes": g.size,
                "smallest": g.smallest,
                "largest": g.largest,
                "example": hex(g.example),
                "comm": g.comm,
                "pid": g.pid,
                "age_seconds": None if g.age is None else list(g.age),
                "percpu": g.percpu,
                "origin": _frame(g.origin),
                "module": g.module,
                "frames": [_frame(f) for f in g.frames],
            }
            for g in found.groups[:_MOST]
        ],
    }


def _page_owner(found: PageOwner, page: int) -> dict[str, Any]:
    return {
        "allocations": found.allocations,
        "pages": found.pages,
        "ungrouped_pages": found.ungrouped,
        "groups": [
            {
                "kind": g.kind,
                "allocations": g.allocations,
                "pages": g.pages,
                "bytes": g.pages * page,
                "orders": {str(order): n for order, n in sorted(g.orders.items())},
                "mask": g.mask,
                "comm": g.comm,
                "pid": g.pid,
                "origin": _frame(g.origin),
                "module": g.module,
                "frames": [_frame(f) for f in g.frames],
            }
            for g in found.groups[:_MOST]
        ],
    }


def _traces(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "cache": cache,
            "objects": traces.objects,
            "sites": [
                {
                    "count": s.count,
                    "site": _frame(s.site),
                    "age_jiffies": None if s.age is None else list(s.age),
                    "pids": None if s.pids is None else list(s.pids),
                    "cpus": s.cpus,
                    "nodes": s.nodes,
                    "frames": [_frame(f) for f in s.frames],
                }
                for s in traces.sites[:_MOST]
            ],
        }
        for cache, traces in sorted(snapshot.traces.items(), key=lambda t: -t[1].objects)
    ]


def _allocinfo(snapshot: Snapshot) -> list[dict[str, Any]] | None:
    if snapshot.allocinfo is None:
        return None
    return [
        {
            "bytes": t.bytes,
            "calls": t.calls,
            "file": t.file,
            "line": t.line,
            "module": t.module,
            "function": t.function,
            "accurate": t.accurate,
        }
        for t in snapshot.allocinfo.tags[:_MOST]
    ]


def _process(process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "comm": process.comm,
        "rss": process.rss,
        "rss_anon": process.rss_anon,
        "rss_file": process.rss_file,
        "rss_shmem": process.rss_shmem,
        "swap": process.swap,
        "locked": process.locked,
        "page_tables": process.page_tables,
        "hugetlb": process.hugetlb,
    }


def _frame(frame: PrintedFrame | None) -> str | None:
    return None if frame is None else str(frame)

"""The accounting of a dump's memory as JSON: sizes in bytes, parts that add up to the total."""

from __future__ import annotations

from typing import Any

from crashext.analysis.memory.accounting import Accounting
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.hosts.plain import plain
from crashext.procfs.counters import MemInfo


def memory_fields(accounting: Accounting) -> dict[str, Any]:
    """The `memory` object: the parts and `unaccounted` make `total`, to the byte."""
    return {
        **_split(accounting.split),
        "by": "counters" if accounting.found is None else "page-frames",
        "counters": _split(accounting.counted),
        "checks": [
            {
                "name": check.name,
                "counters": check.counted,
                "page_frames": check.found,
                "agrees": check.agrees,
            }
            for check in accounting.checks
        ],
        "meminfo": {line.name: line.bytes for line in accounting.lines},
        "mlocked": accounting.mlocked,
        "huge_pages": plain(accounting.huge_pages),
        "vmalloc_callers": plain(accounting.callers),
        "reserved": plain(accounting.reserved),
        "unaccounted_pages": plain(accounting.unaccounted),
        "processes": plain(accounting.processes),
        "process_count": accounting.process_count,
        "tmpfs": plain(accounting.tmpfs),
        "limits": list(accounting.limits),
    }


def proc_memory_fields(split: MemorySplit, meminfo: MemInfo) -> dict[str, Any]:
    """The `memory` object of proc files: the parts and `unaccounted` make `total`, to the byte."""
    return {**_split(split), "by": "counters", "meminfo": dict(meminfo.sizes)}


def _split(split: MemorySplit) -> dict[str, Any]:
    return {
        "total": split.total,
        "parts": plain(split.parts),
        "unaccounted": split.unaccounted,
    }

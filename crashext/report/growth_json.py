"""What grew since an earlier moment, as plain data. Sizes in bytes."""

from __future__ import annotations

from typing import Any

from crashext.analysis.memory.growth import Growth

_MOST = 1000
"""Rows of any list."""


def growth_fields(growth: Growth) -> dict[str, Any]:
    """The `growth` object; its lists hold the largest 1,000."""
    return {
        "paths": list(growth.paths),
        "seconds": growth.seconds,
        "clock": growth.clock,
        "backwards": growth.backwards,
        "compared": list(growth.compared),
        "alike": growth.alike,
        "caches": [
            {
                "name": c.name,
                "active_objs": c.active_objs,
                "num_objs": c.num_objs,
                "slabs": c.slabs,
                "bytes": c.bytes,
                "bytes_per_hour": growth.per_hour(c.bytes),
                "use": [round(u, 6) for u in c.use],
                "steps": list(c.steps),
                "fragmenting": c.fragmenting,
            }
            for c in growth.caches[:_MOST]
        ],
        "meminfo": [
            {"name": m.name, "first": m.first, "last": m.last, "bytes": m.bytes}
            for m in growth.meminfo
        ],
        "vmalloc": [
            {"function": c.function, "module": c.module, "areas": c.areas, "bytes": c.bytes}
            for c in growth.vmalloc[:_MOST]
        ],
    }

"""A trace's summary as one JSON document; `schema.json` beside this file describes it."""

from __future__ import annotations

import json
from typing import Any

from crashext.trace.summary import Cache, Outstanding, Site, TraceSummary

TRACE_SCHEMA_VERSION = 1
_MOST_STACKS = 1000


def trace_document(trace: TraceSummary) -> str:
    """The answer to `leakscan --trace FILE --json`."""
    return json.dumps(trace_dict(trace), indent=1)


def trace_dict(trace: TraceSummary) -> dict[str, Any]:
    """The same as plain data, to be part of another document."""
    return {
        "schema": f"crashext/trace/{TRACE_SCHEMA_VERSION}",
        "source": trace.source,
        "events": {"read": trace.events, "allocs": trace.allocs, "frees": trace.frees},
        "seconds": trace.seconds,
        "hashed": trace.hashed,
        "outstanding": _totals(trace.outstanding),
        "outstanding_pages": _totals(trace.outstanding_pages),
        "sites": [_site(site) for site in trace.sites],
        "pages": [_site(site) for site in trace.pages],
        "period": trace.period / 1e9,
        "caches": [_cache(cache) for cache in trace.caches],
        "tasks": [
            {
                "comm": trace.tasks[held.index].comm,
                "pid": trace.tasks[held.index].pid,
                "outstanding": held.outstanding,
                "bytes": held.bytes,
            }
            for held in trace.by_task
        ],
        "stacks": [
            {
                "frames": list(trace.stacks[held.index]),
                "outstanding": held.outstanding,
                "bytes": held.bytes,
            }
            for held in trace.by_stack[:_MOST_STACKS]
        ],
        "skipped": [{"what": s.what, "count": s.count, "effect": s.effect} for s in trace.skipped],
        "remarks": list(trace.remarks),
        "interrupted": trace.interrupted,
    }


def _totals(outstanding: Outstanding) -> dict[str, int]:
    return {"count": len(outstanding), "bytes": int(outstanding.size.sum())}


def _site(site: Site) -> dict[str, Any]:
    return {
        "function": site.function,
        "module": site.module or None,
        "outstanding": site.outstanding,
        "bytes": site.bytes,
        "allocs": site.allocs,
        "frees": site.frees,
        "reused": site.reused,
        "marked": site.marked,
        "oldest": site.oldest,
        "youngest": site.youngest,
        "spread": list(site.spread),
    }


def _cache(cache: Cache) -> dict[str, Any]:
    return {
        "name": cache.name,
        "size": cache.size,
        "allocs": cache.allocs,
        "frees": cache.frees,
        "outstanding": cache.outstanding,
        "bytes": cache.bytes,
        "bytes_per_hour": cache.per_hour,
        "growth": list(cache.growth),
    }

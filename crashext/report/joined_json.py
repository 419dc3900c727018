"""A trace joined with memory, as JSON: the field `trace` of leakscan's document."""

from __future__ import annotations

from typing import Any

from crashext.analysis.results.joined import JoinedTrace, MarkedCache


def joined(trace: JoinedTrace | None) -> dict[str, Any] | None:
    """None where no trace was given."""
    if trace is None:
        return None
    return {
        "source": trace.source,
        "seconds": trace.seconds,
        "outstanding": trace.outstanding,
        "hashed": trace.hashed,
        "elsewhere": trace.elsewhere,
        "moved": trace.moved,
        "caches": [_cache(cache) for cache in trace.caches],
        "notes": list(trace.notes),
        "remarks": list(trace.remarks),
    }


def _cache(cache: MarkedCache) -> dict[str, Any]:
    return {
        "cache": cache.cache,
        "outstanding": cache.outstanding,
        "compared": cache.compared,
        "gone": cache.gone,
        "unreadable": cache.unreadable,
        "not_compared": cache.not_compared,
        "by": "reachability" if cache.by_reach else "likeness",
        "judged": cache.judged,
        "groups": [
            {
                "number": g.number,
                "exemplar": hex(g.exemplar),
                "objects": {
                    "estimate": g.objects.estimate,
                    "low": g.objects.low,
                    "high": g.objects.high,
                },
                "alike": g.alike,
                "suspect": g.suspect,
            }
            for g in cache.groups
        ],
        "sites": [
            {
                "function": s.function,
                "module": s.module or None,
                "outstanding": s.outstanding,
                "marked": s.marked,
                "reachable": s.reachable,
                "unlike": s.unlike,
                "gone": s.gone,
                "allocs": s.allocs,
                "group": s.groups[0][0] if s.groups else None,
                "groups": [{"number": n, "marked": times} for n, times in s.groups],
            }
            for s in cache.sites
        ],
    }

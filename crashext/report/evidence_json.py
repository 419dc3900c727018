"""Reachability, holders and allocators as JSON data."""

from __future__ import annotations

from typing import Any

from crashext.analysis.results.estimate import Share
from crashext.analysis.results.evidence import Allocator, Chain, Held, Reachability


def share_fields(share: Share) -> dict[str, float]:
    """A proportion with its interval."""
    return {"value": number(share.value), "low": number(share.low), "high": number(share.high)}


def number(value: float) -> float:
    """Six digits are enough for any reader, and the same on every machine."""
    return round(value, 6)


def reachability(seen: Reachability | None) -> dict[str, Any] | None:
    """What the pass over memory saw."""
    if seen is None:
        return None
    return {
        "pages": {"present": seen.pages_present, "missing": seen.pages_missing},
        "roots": seen.roots,
        "edges": seen.edges,
        "objects": seen.objects,
        "bytes_read": seen.bytes_read,
        "sampled": seen.sampled,
        "notes": list(seen.notes),
        "misgivings": list(seen.misgivings),
    }


def held(found: Held | None) -> dict[str, Any] | None:
    """Who points at a group."""
    if found is None:
        return None
    return {
        "orphan": share_fields(found.orphan),
        "structure": share_fields(found.structure),
        "held": share_fields(found.held),
        "weak": share_fields(found.weak),
        "examined": found.examined,
        "holders": [{"name": name, "objects": count} for name, count in found.holders],
        "chains": [_chain(c) for c in found.chains],
    }


def _chain(chain: Chain) -> dict[str, Any]:
    return {"target": hex(chain.target), "steps": list(chain.steps)}


def allocators(sites: tuple[Allocator, ...]) -> list[dict[str, Any]]:
    """Who allocated them."""
    return [
        {
            "rung": s.rung,
            "site": s.site,
            "module": s.module,
            "stack": list(s.stack),
            "objects": s.objects,
            "of": s.of,
            "note": s.note,
        }
        for s in sites
    ]

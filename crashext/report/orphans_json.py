"""`leakscan --orphans` as JSON."""

from __future__ import annotations

from typing import Any

from crashext.analysis.results.evidence import OrphanGroup
from crashext.analysis.results.reports import OrphanReport
from crashext.hosts.plain import plain
from crashext.report.as_json import SCHEMA_VERSION, dump, kernel_fields, skipped_fields
from crashext.report.evidence_json import allocators, reachability


def orphan_document(report: OrphanReport) -> str:
    """The answer to `leakscan --orphans`."""
    totals = report.totals
    return dump(
        {
            "schema": f"crashext/orphans/{SCHEMA_VERSION}",
            "kernel": kernel_fields(report.kernel),
            "seed": report.seed,
            "reachability": reachability(report.reachability),
            "totals": {
                "objects": plain(totals.objects),
                "bytes": totals.bytes,
                "heads": plain(totals.heads),
                "explained": totals.explained,
                "judged": {"objects": totals.judged, "bytes": totals.judged_bytes},
                "dead_words": totals.dead_words,
            },
            "caches": plain(report.caches),
            "orphans": [_group(g) for g in report.orphans],
            "more": report.more,
            "skipped": skipped_fields(report.skipped),
            "interrupted": report.interrupted,
        }
    )


def _group(group: OrphanGroup) -> dict[str, Any]:
    return {
        "cache": group.cache,
        "objects": group.objects,
        "bytes": group.bytes,
        "shape": group.shape,
        "heads": group.heads,
        "estimated": group.estimated,
        "below": [{"cache": b.cache, "objects": b.objects, "bytes": b.bytes} for b in group.below],
        "exemplar": hex(group.exemplar),
        "examples": [hex(a) for a in group.examples],
        "notes": list(group.notes),
        "explanation": group.explanation,
        "allocators": allocators(group.allocators),
    }

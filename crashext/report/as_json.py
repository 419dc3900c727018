"""Reports as one versioned JSON document; `schema.json` beside this file describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crashext.analysis.results.estimate import Estimate
from crashext.analysis.results.evidence import Allocator
from crashext.analysis.results.reports import (
    CacheReport,
    Group,
    Kernel,
    LeakReport,
    SimilarityReport,
    Subject,
    Word,
)
from crashext.report.evidence_json import held, number, reachability, share_fields
from crashext.report.joined_json import joined
from crashext.skipped import Skipped

SCHEMA_VERSION = 1


def leak_document(report: LeakReport, extra: Mapping[str, Any] | None = None) -> str:
    """The answer to `leakscan CACHE…`; `extra` are more fields of the document."""
    return dump(
        {
            "schema": f"crashext/leakscan/{SCHEMA_VERSION}",
            "kernel": kernel_fields(report.kernel),
            "seed": report.seed,
            "threshold": report.threshold,
            "metric": report.metric,
            "caches": [_cache(c) for c in report.caches],
            "skipped": skipped_fields(report.skipped),
            "interrupted": report.interrupted,
            "reachability": reachability(report.reachability),
            "trace": joined(report.trace),
            **(extra or {}),
        }
    )


def similarity_document(report: SimilarityReport) -> str:
    """The answer to `objsim`."""
    kin = report.kin
    return dump(
        {
            "schema": f"crashext/objsim/{SCHEMA_VERSION}",
            "kernel": None if report.kernel is None else kernel_fields(report.kernel),
            "seed": report.seed,
            "threshold": report.threshold,
            "metric": report.metric,
            "subjects": [_subject(s) for s in report.subjects],
            "pairs": [
                {
                    "first": hex(p.first),
                    "second": hex(p.second),
                    "similarity": number(p.similarity),
                    "differing": list(p.differing),
                }
                for p in report.pairs
            ],
            "alike": None
            if kin is None
            else {
                "like": hex(kin.like),
                "cache": kin.cache,
                "objects": _estimate(kin.objects),
                "share": share_fields(kin.share),
                "allocated": _estimate(kin.allocated),
                "similarity": number(kin.similarity),
                "residue": None if kin.residue is None else number(kin.residue),
                "addresses": None if kin.listed is None else [hex(a) for a in kin.listed.tolist()],
            },
            "groups": [_group(g) for g in report.groups],
            "alone": report.alone,
            "skipped": skipped_fields(report.skipped),
            "interrupted": report.interrupted,
        }
    )


def dump(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1)


def kernel_fields(kernel: Kernel) -> dict[str, Any]:
    return {
        "release": kernel.release,
        "arch": kernel.arch,
        "live": kernel.live,
        "source": kernel.source,
    }


def _cache(cache: CacheReport) -> dict[str, Any]:
    return {
        "name": cache.name,
        "asked": cache.asked,
        "aliases": list(cache.aliases),
        "address": hex(cache.address),
        "walker": cache.walker,
        "object_size": cache.object_size,
        "slot_size": cache.slot_size,
        "flags": list(cache.flags),
        "constructor": cache.has_constructor,
        "slabs": {"total": _estimate(cache.slabs_total), "examined": cache.slabs_examined},
        "objects": {
            "allocated": _estimate(cache.allocated),
            "total": _estimate(cache.objects_total),
            "sampled": cache.sampled,
            "free_sampled": cache.free_sampled,
        },
        "groups": [_group(g) for g in cache.groups],
        "more": {"groups": cache.more_groups, "objects": _estimate(cache.more)},
        "rest": {"examined": cache.rest_examined, "objects": _estimate(cache.rest)},
        "next": list(cache.next_steps),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "exemplar": hex(group.exemplar),
        "objects": _estimate(group.objects),
        "share": share_fields(group.share),
        "sampled": group.sampled,
        "similarity": number(group.similarity),
        "shape": group.shape,
        "shapes": group.shapes,
        "distinct": group.distinct,
        "residue": None if group.residue is None else number(group.residue),
        "words": [_word(w) for w in group.words],
        "notes": list(group.notes),
        "types": [
            {
                "name": t.name,
                "module": t.module,
                "score": number(t.score),
                "gain": number(t.gain),
                "agree": t.agree,
                "disagree": t.disagree,
                "agreements": list(t.agreements),
                "disagreements": list(t.disagreements),
            }
            for t in group.types
        ],
        "lowest": hex(group.lowest),
        "highest": hex(group.highest),
        "held": held(group.held),
        "allocators": [_allocator(a) for a in group.allocators],
        "unattributed": group.unattributed,
    }


def _allocator(allocator: Allocator) -> dict[str, Any]:
    return {
        "rung": allocator.rung,
        "site": allocator.site,
        "module": allocator.module,
        "stack": list(allocator.stack),
        "objects": allocator.objects,
        "of": allocator.of,
        "note": allocator.note,
    }


def _word(word: Word) -> dict[str, Any]:
    return {
        "offset": word.offset,
        "value": f"{word.value:#0{2 + 2 * word.size}x}",
        "meaning": word.meaning,
        "kind": word.kind,
        "agreement": number(word.agreement),
        "constant": number(word.constant),
        "varies": word.varies,
        "hops": [{"address": hex(h.address), "what": h.what} for h in word.hops],
    }


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "asked": hex(subject.asked),
        "address": hex(subject.address),
        "cache": subject.cache,
        "size": subject.size,
        "state": subject.state,
        "note": subject.note,
        "members": [
            {
                "name": m.name,
                "offset": m.offset,
                "size": m.size,
                "value": None if m.value is None else hex(m.value),
                "meaning": m.meaning,
            }
            for m in subject.members
        ],
        "words": [_word(w) for w in subject.words],
    }


def skipped_fields(skipped: tuple[Skipped, ...]) -> list[dict[str, Any]]:
    return [{"what": s.what, "count": s.count, "effect": s.effect} for s in skipped]


def _estimate(count: Estimate) -> dict[str, int]:
    return {"estimate": count.estimate, "low": count.low, "high": count.high}

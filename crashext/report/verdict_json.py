"""The verdict over a whole machine as JSON."""

from __future__ import annotations

from typing import Any

from ..analysis.facts import Facts
from ..analysis.judgement import Verdict
from ..analysis.overview import Overview
from ..analysis.plain import plain
from .as_json import SCHEMA_VERSION, dump, kernel_fields, skipped_fields
from .evidence_json import reachability
from .memory_json import memory_fields


def overview_document(overview: Overview, verdicts: tuple[Verdict, ...]) -> str:
    """The answer to `leakscan` with no argument."""
    facts, accounting = overview.facts, overview.accounting
    return dump(
        {
            "schema": f"crashext/verdict/{SCHEMA_VERSION}",
            "kernel": kernel_fields(overview.kernel),
            **verdict_fields(verdicts),
            "memory": None if accounting is None else memory_fields(accounting),
            **fact_fields(facts),
            "skipped": skipped_fields(overview.skipped),
            "interrupted": overview.interrupted,
        }
    )


def verdict_fields(verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    """The worst, and all of them."""
    every = [_verdict(v) for v in verdicts]
    return {"verdict": every[0], "verdicts": every}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    culprit = {k: v or None for k, v in vars(verdict.culprit).items()}
    return {
        "class": verdict.kind,
        "where": verdict.where,
        "culprit": culprit,
        "bytes": verdict.bytes,
        "confidence": verdict.confidence,
        "says": verdict.says,
        "for": list(verdict.evidence),
        "against": list(verdict.against),
        "next": verdict.next,
    }


def fact_fields(facts: Facts) -> dict[str, Any]:
    """What the verdicts were made of."""
    return {
        "caches": [plain(c) for c in facts.caches],
        "lost": None if facts.lost is None else [_lost(f) for f in plain(facts.lost)],
        "holders": plain(facts.holders),
        "areas": plain(facts.areas),
        "unaccounted": plain(facts.pages),
        "backlog": plain(facts.backlog),
        "reachability": reachability(facts.reachability),
        "unseen": list(facts.unseen),
    }


def _lost(fact: dict[str, Any]) -> dict[str, Any]:
    return {**fact, "examples": [hex(a) for a in fact["examples"]]}

"""The verdict over a whole machine as JSON."""

from __future__ import annotations

from typing import Any

from crashext.analysis.overview import Overview
from crashext.analysis.proc import ProcReport
from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.verdict import Verdict
from crashext.hosts.plain import plain
from crashext.kernel.slab.families import bucket_owners, family
from crashext.report.as_json import SCHEMA_VERSION, dump, kernel_fields, skipped_fields
from crashext.report.evidence_json import reachability
from crashext.report.growth_json import growth_fields
from crashext.report.memory_json import memory_fields, proc_memory_fields
from crashext.report.procfs_json import proc_fields


def overview_document(overview: Overview, facts: Facts, verdicts: tuple[Verdict, ...]) -> str:
    """The answer to `leakscan` with no argument. `facts` are its own, with growth if asked for."""
    accounting = overview.accounting
    return dump(
        {
            "schema": f"crashext/verdict/{SCHEMA_VERSION}",
            "kernel": kernel_fields(overview.kernel),
            "moment": plain(overview.moment),
            **verdict_fields(verdicts),
            "memory": None if accounting is None else memory_fields(accounting),
            **fact_fields(facts),
            "procfs": None,
            "skipped": skipped_fields(overview.skipped),
            "interrupted": overview.interrupted,
        }
    )


def proc_document(report: ProcReport, facts: Facts, verdicts: tuple[Verdict, ...]) -> str:
    """The answer to `leakscan --procfs DIR…`: the same, with what else the files said."""
    snapshot = report.snapshot
    return dump(
        {
            "schema": f"crashext/verdict/{SCHEMA_VERSION}",
            "kernel": None,
            "moment": plain(snapshot.moment),
            **verdict_fields(verdicts),
            "memory": None
            if report.split is None or snapshot.meminfo is None
            else proc_memory_fields(report.split, snapshot.meminfo),
            **fact_fields(facts),
            "procfs": proc_fields(report),
            "skipped": skipped_fields(report.skipped),
            "interrupted": False,
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
    owners = bucket_owners(c.name for c in facts.caches)
    return {
        "caches": [{**plain(c), "family": family(c.name, owners)[0]} for c in facts.caches],
        "unreachable": None
        if facts.unreachable is None
        else [_unreachable(f) for f in plain(facts.unreachable)],
        "holders": plain(facts.holders),
        "areas": plain(facts.areas),
        "unaccounted": plain(facts.pages),
        "backlog": plain(facts.backlog),
        "sites": plain(facts.sites),
        "growth": None if facts.growth is None else growth_fields(facts.growth),
        "reachability": reachability(facts.reachability),
        "limits": list(facts.limits),
    }


def _unreachable(fact: dict[str, Any]) -> dict[str, Any]:
    return {**fact, "examples": [hex(a) for a in fact["examples"]]}

"""What `leakscan --json` and `objsim --json` print: a finished report as one versioned document.

The results write themselves (hosts/plain.py); here stands which of them make a document, and its
form: addresses and words are hex strings, fractions have six digits. `schema.json` beside this
file describes every field, and schema.py makes it of the same types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crashext.analysis.overview import Overview
from crashext.analysis.proc import ProcReport
from crashext.analysis.results.reports import (
    CachesReport,
    LeakReport,
    OrphanReport,
    SimilarityReport,
    SitesReport,
)
from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.verdict import Verdict
from crashext.hosts.plain import plain
from crashext.kernel.slab.families import Family
from crashext.procfs.alloctraces import AllocInfo, AllocTraces
from crashext.procfs.counters import MemInfo
from crashext.procfs.folder import Moment
from crashext.procfs.kmemleak import KmemleakReport
from crashext.procfs.pageowner import PageOwner
from crashext.procfs.processes import Process
from crashext.procfs.vmallocinfo import VmallocCaller
from crashext.skipped import Skipped
from crashext.trace.summary import Cache, Outstanding, Site, TraceSummary

VERSION = 2
"""Grows when a field changes its meaning or goes away."""
_MOST = 1000
"""Rows of a list that may have tens of thousands: the largest."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    verdict: Verdict | None
    """The worst; null where nothing was judged."""
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class ProcFiles:
    """What proc files said. Of lists that may be long, the largest 1,000 rows."""

    path: str
    live: bool
    """The files are those of the running machine."""
    moment: Moment
    page_size: int
    page_size_known: bool
    """False where 4096 is a guess."""
    files: tuple[str, ...]
    """Kinds that were found."""
    facts: Facts
    """What the verdicts were made of."""
    meminfo: MemInfo | None
    families: tuple[Family, ...]
    vmalloc: tuple[VmallocCaller, ...]
    kmemleak: KmemleakReport | None
    page_owner: PageOwner | None
    traces: Mapping[str, AllocTraces]
    """By cache."""
    allocinfo: AllocInfo | None
    processes: tuple[Process, ...]
    limits: tuple[str, ...]
    """What could not be said, and what would say it."""
    skipped: tuple[Skipped, ...]

    @classmethod
    def of(cls, report: ProcReport, facts: Facts) -> ProcFiles:
        found = report.snapshot
        leaks, owners, tags = found.kmemleak, found.page_owner, found.allocinfo
        return cls(
            path=found.path,
            live=found.live,
            moment=found.moment,
            page_size=found.page_size,
            page_size_known=found.page_size_known,
            files=found.files,
            facts=facts,
            meminfo=found.meminfo,
            families=report.families[:_MOST],
            vmalloc=report.vmalloc[:_MOST],
            kmemleak=leaks and replace(leaks, groups=leaks.groups[:_MOST]),
            page_owner=owners and replace(owners, groups=owners.groups[:_MOST]),
            traces={c: replace(t, sites=t.sites[:_MOST]) for c, t in found.traces.items()},
            allocinfo=tags and replace(tags, tags=tags.tags[:_MOST]),
            processes=report.processes[:_MOST],
            limits=report.limits,
            skipped=report.skipped,
        )


@dataclass(frozen=True, slots=True)
class Total:
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TaskTotal(Total):
    """Slab objects of one task."""

    comm: str
    pid: int


@dataclass(frozen=True, slots=True)
class StackTotal(Total):
    """Slab objects that were allocated with one stack."""

    frames: tuple[str, ...]
    """Function names, innermost first."""


@dataclass(frozen=True, slots=True)
class TraceTotals:
    """A trace of allocations: what was not freed in it."""

    source: str
    events: int
    """Allocations and frees that were read."""
    allocs: int
    frees: int
    seconds: float
    period: float
    """Seconds of a period of the caches' `growth`."""
    hashed: bool
    """The pointers are hashes: they pair, but no object can be found by them."""
    outstanding: Total
    outstanding_pages: Total
    sites: tuple[Site, ...]
    """Places that allocate slab objects, the guiltiest first."""
    pages: tuple[Site, ...]
    """Places that allocate pages, the slab allocator's own included."""
    caches: tuple[Cache, ...]
    tasks: tuple[TaskTotal, ...]
    """Most outstanding objects first."""
    stacks: tuple[StackTotal, ...]
    """Most outstanding objects first; the first 1,000."""
    skipped: tuple[Skipped, ...]
    remarks: tuple[str, ...]
    """How it was traced, where that was done here."""
    interrupted: bool

    @classmethod
    def of(cls, trace: TraceSummary) -> TraceTotals:
        return cls(
            source=trace.source,
            events=trace.events,
            allocs=trace.allocs,
            frees=trace.frees,
            seconds=trace.seconds,
            period=trace.period / 1e9,
            hashed=trace.hashed,
            outstanding=_total(trace.outstanding),
            outstanding_pages=_total(trace.outstanding_pages),
            sites=trace.sites,
            pages=trace.pages,
            caches=trace.caches,
            tasks=tuple(
                TaskTotal(
                    held.outstanding,
                    held.bytes,
                    trace.tasks[held.index].comm,
                    trace.tasks[held.index].pid,
                )
                for held in trace.by_task
            ),
            stacks=tuple(
                StackTotal(held.outstanding, held.bytes, trace.stacks[held.index])
                for held in trace.by_stack[:_MOST]
            ),
            skipped=trace.skipped,
            remarks=trace.remarks,
            interrupted=trace.interrupted,
        )


def _total(outstanding: Outstanding) -> Total:
    return Total(len(outstanding), int(outstanding.size.sum()))


KINDS: Mapping[type, str] = {
    LeakReport: "leakscan",
    SimilarityReport: "objsim",
    OrphanReport: "orphans",
    SitesReport: "sites",
    TraceTotals: "trace",
    Overview: "verdict",
    ProcFiles: "procfs",
    CachesReport: "caches",
}
"""Reports, and what the documents that hold them are called."""
JUDGED = (LeakReport, Overview, ProcFiles)
"""Those that come with verdicts."""

Report = (
    LeakReport
    | SimilarityReport
    | OrphanReport
    | SitesReport
    | TraceTotals
    | Overview
    | ProcFiles
    | CachesReport
)


def document(report: Report, verdicts: tuple[Verdict, ...] = ()) -> str:
    """A report, and the verdicts over the whole machine, the worst first, as JSON."""
    fields = {"schema": name(type(report))}
    if isinstance(report, JUDGED):
        fields |= _written(Verdicts(verdicts[0] if verdicts else None, verdicts))
    return json.dumps(fields | _written(report), indent=1)


def name(report: type) -> str:
    """The field `schema` of a report's document."""
    return f"crashext/{KINDS[report]}/{VERSION}"


def _written(value: Any) -> Any:
    return _six_digits(plain(value, word=hex))


def _six_digits(value: Any) -> Any:
    """They are enough for any reader, and the same on every machine."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _six_digits(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_six_digits(inner) for inner in value]
    return value

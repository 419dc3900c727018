"""`leakscan` with no argument: the facts of a whole dump, gathered for the verdict.

Everything here needs all of memory, so a session keeps the facts, not what they were read from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.cache_holders import holder_facts
from crashext.analysis.cgroup_facts import with_cgroups
from crashext.analysis.likeness.survey import damage, kernel_of, map_gaps
from crashext.analysis.memory.accounting import Accounting, account, unaccounted_frames
from crashext.analysis.memory.pagegroups import BY_RECORD, PageGroup
from crashext.analysis.origin.callers import RUNG as CODE
from crashext.analysis.origin.callers import in_words
from crashext.analysis.origin.content import RUNG
from crashext.analysis.orphans import orphan_report
from crashext.analysis.page_holders import page_holders, weak_holders
from crashext.analysis.page_reach import module_in
from crashext.analysis.partial import area_facts, by_counters, cache_fact, nothing, whole_index
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.marked import marked
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.scan import present_frames
from crashext.analysis.reach.totals import unreachable_counts
from crashext.analysis.results.estimate import Estimate, count_text
from crashext.analysis.results.evidence import UnreachableCache, UnreachableMemory
from crashext.analysis.results.joined import Traced
from crashext.analysis.results.reports import Kernel, OrphanReport
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.analysis.trace_losses import named_by_trace
from crashext.analysis.types.candidates import settled
from crashext.analysis.verdict.facts import (
    CUT,
    AreaFact,
    BacklogFact,
    CacheFact,
    Facts,
    MountFact,
    PagesFact,
    UnreachableFact,
)
from crashext.growing import give_back
from crashext.hosts.base import U64, HostError, Info
from crashext.hosts.plain import answered
from crashext.kernel.counters.clock import uptime, wall_clock
from crashext.kernel.counters.rcu import read_backlog
from crashext.kernel.pages.areas import by_caller, read_areas
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.leftover import Pages, read_pages
from crashext.kernel.slab.view import KernelView, NoMemoryMap
from crashext.procfs.folder import Moment
from crashext.progress import Progress, part
from crashext.skipped import Skipped
from crashext.wording import bracketed, size_text, some_of

_LEFT_OUT = ("free", "anonymous", "file cache and buffers", "shmem and tmpfs", "hugetlb")
_TELLING = 2  # groups of a cache whose evidence is given
_MANY_AREAS = 8
_AT_ONCE = 1 << 17  # areas
_STRONG = ("alloc-tag", "slub-track", "kmemleak", "page-owner", "trace")


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known of the whole dump."""

    kernel: Kernel
    facts: Facts
    accounting: Accounting | None
    skipped: tuple[Skipped, ...]
    moment: Moment
    """Of the dump, by the kernel's own clocks."""
    interrupted: bool = False


def look_over(
    view: KernelView,
    settings: Settings,
    progress: Progress,
    budget: int = MEMORY_BUDGET,
    refs: bool | None = None,
    traced: Traced | None = None,
) -> Overview:
    """Gather the facts. Raises `HostError` where a session has none, or MemTotal is unknown.

    `refs` False leaves out who points at what; `traced` names who allocated what is unreachable.
    Interrupted by Ctrl-C, it returns what it has.
    """
    key = f"overview {settings.seed}"
    found = answered(
        view.host,
        key,
        Overview,
        lambda: _gather(view, settings, progress, budget, refs is not False, traced),
    )
    if found is None:
        raise HostError("this session does not know: record one with leakscan --record, no CACHE")
    return found


def _gather(
    view: KernelView,
    settings: Settings,
    progress: Progress,
    budget: int,
    refs: bool,
    traced: Traced | None,
) -> Overview:
    try:
        known = read_pages(view, part(progress, 0, 15))
        accounting, facts = _accounted(view, known, settings, progress)
    except NoMemoryMap as missing:
        return _without_map(view, settings, str(missing))
    except KeyboardInterrupt:
        return by_counters_alone(view, settings)
    interrupted, reached = False, None
    if refs:
        try:
            progress("what can be reached", 35, 100)
            reached = marked(view, settings, part(progress, 35, 60), budget, known)
            facts = _judged(reached, facts, known, settings, progress, traced)
        except KeyboardInterrupt:
            interrupted = True
            facts = replace(facts, limits=(*facts.limits, _cut_off(reached)))
    else:
        facts = replace(facts, limits=(*facts.limits, "nobody looked who points at what: --refs"))
    skipped, moment = tuple(map_gaps(view)), _moment(view)
    return Overview(kernel_of(view.host), facts, accounting, skipped, moment, interrupted)


def _cut_off(reached: Reach | None) -> str:
    """What Ctrl-C left open. Nobody is accused by a count: who is next may explain it."""
    if reached is None or reachability_of(reached).misgivings:
        return CUT + "it was known what can be reached"
    lost = Estimate.sum(unreachable_counts(reached).values())
    if lost.exact and not lost.estimate:
        return CUT + "all was looked at; nothing reaches no object"
    return CUT + f"it was seen what is in {count_text(lost, 'object')} that nothing reaches"


def _accounted(
    view: KernelView, known: Pages, settings: Settings, progress: Progress
) -> tuple[Accounting, Facts]:
    """Where all memory is, and what that says before anybody asks who points at what."""
    progress("accounting for all memory", 15, 100)
    accounting = account(view, known, known.areas, settings.seed)
    if accounting is None:
        raise HostError("how much memory there is cannot be read: give a CACHE to look at")
    if _lacks_slabs(view, known.frames) and not all(check.agrees for check in accounting.checks):
        # What areas and structures have cannot be found where their descriptions are missing.
        accounting = replace(accounting, found=None)
    if known.frames.guess is not None:
        # A sample tells what kind of pages the dump leaves out; how many, the counters tell.
        checks = tuple(c for c in accounting.checks if c.name not in _LEFT_OUT)
        accounting = replace(accounting, found=None, checks=checks)
    return accounting, _counted(view, accounting, part(progress, 25, 35))


def _lacks_slabs(view: KernelView, uses: Frames) -> bool:
    """Whether the dump lacks pages of slabs, or may."""
    present = present_frames(view.host, len(uses.use))
    slabs = uses.use.among(FrameUse.SLAB, FrameUse.APART, FrameUse.UNKNOWN)
    return present is not None and (slabs & ~present).count() > 0


def _without_map(view: KernelView, settings: Settings, why: str) -> Overview:
    """What the counters say where no struct page is in the dump."""
    accounting = account(view, None, read_areas(view.host, view.memory), settings.seed)
    if accounting is None:
        return unreadable(view.host.info(), why)
    skipped = (*damage(view.host), Skipped("memory map", 1, why))
    facts = by_counters(view, accounting, why)
    return Overview(kernel_of(view.host), facts, accounting, skipped, _moment(view))


def by_counters_alone(view: KernelView, settings: Settings) -> Overview:
    """What is known when Ctrl-C comes before all memory is accounted for."""
    before = "all memory was accounted for" if whole_index(view) else "the memory map was read"
    accounting = account(view, None, read_areas(view.host, view.memory), settings.seed)
    if accounting is None:
        raise KeyboardInterrupt
    facts = by_counters(view, accounting, CUT + before)
    skipped = tuple(damage(view.host))
    return Overview(kernel_of(view.host), facts, accounting, skipped, _moment(view), True)


def _moment(view: KernelView) -> Moment:
    return Moment(wall_clock(view.host), uptime(view.host), None)


def unreadable(info: Info, why: str) -> Overview:
    """Of a dump whose kernel variables are missing: that nothing can be said, and `why`."""
    kernel = Kernel(info.release, info.arch, info.live, info.source)
    return Overview(kernel, nothing(info, why), None, (), Moment(None, None, None))


def _counted(view: KernelView, accounting: Accounting, progress: Progress) -> Facts:
    """What counters, lists and the memory map tell."""
    caches = []
    for done, cache in enumerate(view.caches.all):
        progress("caches", done, len(view.caches.all))
        caches.append(cache_fact(view, cache))
    caches.sort(key=lambda c: (-c.bytes, c.name))
    waiting = read_backlog(view.host, view.space)
    pages = accounting.unaccounted
    modules = [module.name for module in view.host.modules()]
    return Facts(
        split=accounting.split,
        caches=tuple(caches),
        areas=area_facts(accounting, view.space.page_size),
        pages=None
        if pages is None
        else PagesFact(
            max(0, accounting.split.unaccounted),
            None,
            tuple(
                (_group_text(g), g.module or module_in(g.detail, modules), g.share)
                for g in pages.groups
            ),
            next((g.detail for g in pages.groups if g.by in BY_RECORD), ""),
            disagreement=_disagreement(accounting),
        ),
        backlog=None
        if waiting is None
        else BacklogFact(waiting.callbacks, waiting.frees, waiting.sheaves),
        processes=accounting.processes,
        mounts=tuple(MountFact(t.mounted, t.bytes) for t in accounting.tmpfs),
        limits=accounting.limits,
        damage=view.host.info().damage,
        source="live" if view.host.info().live else "dump",
    )


def _disagreement(accounting: Accounting) -> int | None:
    if accounting.found is None:
        return None
    return abs(accounting.counted.unaccounted - accounting.found.unaccounted)


def _group_text(group: PageGroup) -> str:
    return f"{group.kind}: {group.detail}" if group.detail else group.kind


def _judged(
    reached: Reach,
    facts: Facts,
    known: Pages,
    settings: Settings,
    progress: Progress,
    traced: Traced | None,
) -> Facts:
    """What reachability adds."""
    view = reached.view
    progress("what is unreachable", 60, 100)
    report = orphan_report(reached, settings, part(progress, 60, 90))
    give_back()
    pages = facts.pages
    # What a missing slab page pointed at may be anything, pages and areas too.
    holed = reached.references.coverage.missing_slab > 0
    if pages is not None and not holed:
        left = unaccounted_frames(view, known, settings.seed)
        pages = _judged_pages(reached, pages, report.memory, left)
    counts = unreachable_counts(reached)
    facts = replace(facts, holders=holder_facts(reached, facts, part(progress, 90, 100)))
    return replace(
        with_cgroups(view.host, facts),
        caches=tuple(_with_reach(c, counts) for c in facts.caches),
        unreachable=named_by_trace(
            reached, traced, tuple(_unreachable(c, report) for c in report.caches)
        ),
        explained=report.totals.explained,
        areas=tuple(_not_hidden(a) if holed else a for a in _areas(reached)),
        pages=pages,
        reachability=report.reachability,
    )


def _judged_pages(
    marked: Reach,
    pages: PagesFact,
    memory: tuple[UnreachableMemory, ...],
    left: NDArray[np.int64],
) -> PagesFact:
    """What reachability says of pages, `left` being those that are unaccounted for."""
    lost = tuple(m for m in memory if m.kind == "pages" and not m.part_of)
    size = marked.nodes.blocks.pages << marked.view.space.page_shift
    return replace(
        pages,
        unreachable=sum(m.bytes for m in lost),
        memory=lost,
        held=page_holders(marked, left),
        weak=int(size[marked.weak.blocks].sum()),
        weak_by=weak_holders(marked),
        split=int(size[marked.split_blocks].sum()),
    )


def _with_reach(cache: CacheFact, counts: dict[str, Estimate]) -> CacheFact:
    return replace(cache, unreachable=counts.get(cache.name, Estimate.known(0)))


def _unreachable(found: UnreachableCache, report: OrphanReport) -> UnreachableFact:
    """Counts of the whole, with what the cache's largest groups say of themselves."""
    some = [g for g in report.orphans if g.cache == found.cache and not g.explanation][:_TELLING]
    allocators = [a for g in some for a in g.allocators]
    known = next((a for a in allocators if a.rung in _STRONG), None)
    # Where the kernel itself allocates them for others, that is not who is to blame.
    code = (a for a in allocators if a.rung == CODE and a.module)
    likely = None if known else next(code, None)
    who = known or likely
    types = [best for g in some if (best := settled(g.types)) is not None]
    modules = [who.module if who else "", *(a.module for a in allocators)]
    modules += [t.module for t in types]
    module = next((m for m in modules if m), "")
    evidence = [f"allocated by {known.site} ({known.rung})"] if known else []
    evidence += [] if known else [line for g in some for line in in_words(g.callers)]
    evidence += [f"they may be {bracketed(t.name, t.module)}" for t in types]
    evidence += [note for g in some for note in g.notes[:2]]
    evidence += [
        f"{size_text(m.bytes)} of pages are lost with them: {m.what}"
        for m in report.memory
        if m.part_of == found.cache
    ]
    if found.below:
        hanging = some_of([f"{b.objects:,} {b.cache}" for b in found.below], 4)
        evidence.append(f"below them hang {hanging}")
    return UnreachableFact(
        "reachability",
        "slab",
        found.cache,
        found.objects,
        found.bytes,
        module,
        who.site if who else "",
        tuple(dict.fromkeys(evidence)),
        some[0].examples if some else (),
        found.others,
        contains_symbols=any(a.rung == RUNG and a.module == module for a in allocators),
        likely=likely is not None,
    )


def _not_hidden(fact: AreaFact) -> AreaFact:
    """The missing pages may be what points at a few areas; not at all of very many."""
    few = fact.unreachable is not None and fact.areas < _MANY_AREAS
    return replace(fact, unreachable=None) if few else fact


def _areas(marked: Reach) -> tuple[AreaFact, ...]:
    """vmalloc areas by caller, most bytes first."""
    view, areas, reached = marked.view, marked.areas, marked.areas_reached()
    rows = np.flatnonzero((areas.pages > 0) & (areas.caller != 0)).astype(np.int32)
    names, which = by_caller(view.host, areas.caller, rows)
    found = []
    counts, totals, losts, largest = np.zeros((4, len(names)), np.int64)
    for begin in range(0, len(rows), _AT_ONCE):
        some, groups = rows[begin : begin + _AT_ONCE], which[begin : begin + _AT_ONCE]
        pages = areas.pages[some].astype(np.int64)
        counts += np.bincount(groups, minlength=len(names))
        totals += np.bincount(groups, pages, len(names)).astype(np.int64)
        losts += np.bincount(groups, np.where(reached[some], 0, pages), len(names)).astype(np.int64)
        np.maximum.at(largest, groups, pages)
    last = np.zeros(len(names), np.uint64)  # of the largest
    for begin in range(0, len(rows), _AT_ONCE):
        some, groups = rows[begin : begin + _AT_ONCE], which[begin : begin + _AT_ONCE]
        most = areas.pages[some] == largest[groups]
        np.maximum.at(last, groups[most], areas.start[some[most]])
    for number, (name, start) in enumerate(zip(names, last.tolist(), strict=True)):
        total, lost, page = int(totals[number]), int(losts[number]), view.space.page_size
        found.append(
            AreaFact(*name, int(counts[number]), total, total * page, lost * page, U64(start))
        )
    return tuple(sorted(found, key=lambda a: (-a.bytes, a.caller)))

"""`leakscan CACHE…`: what the objects of a cache are, how many are alike, and what to do next."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

import numpy as np

from crashext.analysis.described import Described
from crashext.analysis.likeness.groups import residue
from crashext.analysis.likeness.similarity import group
from crashext.analysis.likeness.survey import (
    kernel_of,
    make_classifier,
    map_gaps,
    slabs_wanted,
    survey,
)
from crashext.analysis.origin.joining import Joiner
from crashext.analysis.reach.on_demand import ReachOnDemand
from crashext.analysis.results.estimate import Estimate
from crashext.analysis.results.evidence import CacheReach, Reachability
from crashext.analysis.results.joined import Traced
from crashext.analysis.results.reports import CacheReport, Group, LeakReport
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.hosts.base import U64
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.named import find_cache
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.usage import Usage
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress, part
from crashext.skipped import Skipped
from crashext.wording import plural

REPORTED_GROUPS = 8
_ASKED = 100
"""A smaller part of a cache is no reason to read the code again for who keeps pointers to it:
seconds, where a cache's own group is told in a tenth of one. objsim reads it for any object."""
TYPED_GROUPS = 3
"""Groups whose types are looked for: the largest."""


def scan_caches(
    view: KernelView,
    names: list[str],
    settings: Settings,
    progress: Progress,
    budget: int = MAP_BUDGET,
    refs: bool | None = None,
    memory: int = MEMORY_BUDGET,
    traced: Traced | None = None,
) -> LeakReport:
    """Examine the caches called `names`. Raises `UnknownCache` when one does not exist.

    `refs` says whether to look for who points at the objects (None: where that takes seconds);
    `memory` is what the pass for it may use. With a trace's outstanding objects (`traced`), those
    are compared with the groups; without `names`, the caches are those that hold most of them.
    Interrupted by Ctrl-C, it returns what it has.
    """
    if traced is not None and not names:
        view.scan({}, settings.seed, progress, 1 << 62 if refs else budget)
        names = [cache.name for cache in Joiner(view, traced, settings).busiest()]
    chosen = [(name, find_cache(view.caches, name)) for name in names]
    wanted = {view.caches.index(c): slabs_wanted(settings, c) for _, c in chosen}
    reports: list[CacheReport] = []
    skipped: list[Skipped] = []
    reachability: Reachability | None = None
    joiner: Joiner | None = None
    interrupted = False
    progress = part(progress, 0, 100)
    try:
        view.scan(wanted, settings.seed, part(progress, 0, 10), 1 << 62 if refs else budget)
        skipped += map_gaps(view)
        each = 90 // max(1, len(chosen))
        looking = part(progress, 10 + each // 5, 10 + each * 3 // 5)  # within the first cache
        judge = ReachOnDemand(view, settings, looking, memory, refs)
        joiner = None if traced is None else Joiner(view, traced, settings)
        for number, (asked, cache) in enumerate(chosen):
            mine = part(progress, 10 + each * number, 10 + each * (number + 1))
            report, gaps = examine_cache(view, cache, asked, settings, mine, judge, joiner)
            reports.append(report)
            skipped += gaps
        reachability = judge.reachability
        if refs and reachability is None:
            skipped.append(Skipped("who points at the objects", 1, "this session cannot tell"))
    except Partly as known:
        interrupted = True
        reports.append(known.report)
        skipped += known.gaps
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        skipped += [_not_reached(cache) for _, cache in chosen[len(reports) :]]
    return LeakReport(
        kernel_of(view.host),
        settings.seed,
        settings.threshold,
        settings.metric,
        tuple(reports),
        tuple(skipped),
        interrupted,
        reachability,
        None if joiner is None else joiner.result(),
    )


class Partly(Exception):
    """A cache was interrupted when its objects were known, and not yet who points at them."""

    def __init__(self, report: CacheReport, gaps: tuple[Skipped, ...]) -> None:
        super().__init__(report.name)
        self.report, self.gaps = report, gaps


def _not_reached(cache: SlabCache) -> Skipped:
    """What is known of a cache whose objects nobody looked at any more."""
    counted = ""
    if cache.counters is not None:
        slabs, slots = cache.counters.slabs, cache.counters.objects
        counted = f"; the kernel counts {plural(slabs, 'slab')} with {plural(slots, 'slot')}"
    return Skipped(f"cache: {cache.name}", 1, f"interrupted before its objects were read{counted}")


def examine_cache(
    view: KernelView,
    cache: SlabCache,
    asked: str,
    settings: Settings,
    progress: Progress,
    judge: ReachOnDemand,
    joiner: Joiner | None = None,
) -> tuple[CacheReport, tuple[Skipped, ...]]:
    """Sample, group, decode one cache; `view.scan` was called."""
    classifier = make_classifier(view)
    seen = survey(view, classifier, cache, settings, part(progress, 0, 20))
    words, sample, population = seen.words, seen.sample, seen.population
    grouping = group(words, settings.threshold, settings.metric, seen.rng)
    described = Described(view, classifier, cache, words, sample.address, settings)
    reported = grouping.clusters[:REPORTED_GROUPS]
    groups: list[Group] = []
    reach: CacheReach | None = None
    interrupted = False
    try:
        for number, cluster in enumerate(reported):
            share = 20 if not number else 60 + 40 * number // len(reported)
            progress(f"{cache.name}: group {number + 1}", share, 100)
            like_free = residue(words, seen.free, cluster.exemplar, cache.freelist_offset, settings)
            found = described.group(
                cluster,
                population.share(cluster.members),
                population.allocated,
                like_free,
                typed=number < TYPED_GROUPS,
            )
            groups.append(replace(found, absent_rungs=() if groups else found.absent_rungs))
            held = judge.held(cache, found.exemplar, population, cluster.members)
            groups[-1] = replace(groups[-1], held=held)
            if _ASKED * groups[-1].objects.estimate >= population.allocated.estimate:
                groups[-1] = described.by_holders(groups[-1], cluster.members)
        if joiner is not None:
            groups = joiner.join(
                cache, population, words, grouping.clusters, groups, judge, classifier, progress
            )
        reach = judge.of_cache(cache)
    except KeyboardInterrupt:
        if not groups:
            raise
        interrupted = True
    others = grouping.clusters[REPORTED_GROUPS:]
    more = np.concatenate([np.zeros(0, np.intp), *(c.members for c in others)])
    report = CacheReport(
        name=cache.name,
        asked=asked,
        aliases=cache.aliases,
        address=U64(cache.address),
        object_size=cache.object_size,
        slot_size=cache.slot_size,
        flags=tuple(sorted(cache.flags)),
        has_constructor=cache.has_constructor,
        slabs_total=_total(seen.used.slabs, seen.used, cache),
        slabs_examined=sample.slabs_examined,
        objects_total=_total(seen.used.slots, seen.used, cache),
        allocated=population.allocated,
        sampled=len(sample.address),
        free_sampled=sample.free_slots,
        groups=tuple(groups),
        more_groups=len(others),
        more=population.share(more).of(population.allocated),
        rest=population.share(grouping.alone).of(population.allocated),
        rest_examined=not grouping.exhausted,
        next_steps=_next_steps(cache.name, groups, looked=judge.wanted),
        reach=reach,
    )
    if interrupted:
        raise Partly(report, (*seen.gaps, *_interrupted(cache, groups, len(reported))))
    return report, seen.gaps


def _interrupted(cache: SlabCache, groups: list[Group], all_groups: int) -> list[Skipped]:
    """What an interrupted look at a cache lacks."""
    unjudged, rest = sum(1 for g in groups if g.held is None), all_groups - len(groups)
    return [
        Skipped(f"{cache.name}: {what}", count, f"interrupted before {unknown}")
        for what, count, unknown in (
            ("groups not judged", unjudged, "it was known who points at them"),
            ("smaller groups", rest, "they were described"),
        )
        if count
    ]


def _total(count: int, used: Usage, cache: SlabCache) -> Estimate:
    if used.complete or cache.counters is not None:
        return Estimate.known(count)
    return Estimate(count, len(used.inuse), 1 << 62)


def _next_steps(cache: str, groups: list[Group], looked: bool) -> tuple[str, ...]:
    """Commands, plain, in the form of analysis/verdict/commands.py."""
    if not groups:
        return ()
    first = f"{groups[0].exemplar:#x}"
    steps = [f"objsim {first} --list # every {cache} object of group 1"]
    if len(groups) > 1:
        steps.append(f"objsim {first} {groups[1].exemplar:#x} # what sets groups 1 and 2 apart")
    if groups[0].held is not None:
        steps.append("leakscan --orphans # what else in this kernel can nothing reach?")
    elif not looked:
        steps.append(f"leakscan --refs {quote(cache)} # does anything still point at them?")
    return tuple(steps)

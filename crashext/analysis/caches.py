"""`leakscan CACHE…`: what the objects of a cache are, how many are alike, and what to do next."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote

import numpy as np
from rapidfuzz import process

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
from crashext.analysis.results.evidence import Reachability
from crashext.analysis.results.joined import Traced
from crashext.analysis.results.reports import CacheReport, Group, LeakReport
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.hosts.base import U64, HostError
from crashext.kernel.slab.caches import Caches, SlabCache
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.usage import Usage
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.skipped import Skipped

REPORTED_GROUPS = 8
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
    """Examine the caches called `names`. Raises `HostError` when one does not exist.

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
    try:
        view.scan(wanted, settings.seed, progress, 1 << 62 if refs else budget)
        skipped += map_gaps(view)
        judge = ReachOnDemand(view, settings, progress, memory, refs)
        joiner = None if traced is None else Joiner(view, traced, settings)
        for asked, cache in chosen:
            report, gaps = examine_cache(view, cache, asked, settings, progress, judge, joiner)
            reports.append(report)
            skipped += gaps
        reachability = judge.reachability
        if refs and reachability is None:
            skipped.append(Skipped("who points at the objects", 1, "this session cannot tell"))
    except KeyboardInterrupt:
        interrupted = True
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


def find_cache(caches: Caches, name: str) -> SlabCache:
    """The cache of that name or alias; raises `HostError` with the names that are close."""
    cache = caches.find(name)
    if cache is not None:
        return cache
    close = process.extract(name, caches.names(), limit=3, score_cutoff=60)
    hint = ", ".join(n for n, _, _ in close)
    raise HostError(
        f"no slab cache is called {name}"
        + (f": did you mean {hint}?" if hint else f" among the {len(caches.all)} of this kernel")
    )


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
    seen = survey(view, classifier, cache, settings, progress)
    words, sample, population = seen.words, seen.sample, seen.population
    grouping = group(words, settings.threshold, settings.metric, seen.rng)
    described = Described(view, classifier, cache, words, sample.address, settings)
    reported = grouping.clusters[:REPORTED_GROUPS]
    groups: list[Group] = []
    for number, cluster in enumerate(reported):
        progress(f"{cache.name}: groups", number, len(reported))
        like_free = residue(words, seen.free, cluster.exemplar, cache.freelist_offset, settings)
        found = described.group(
            cluster,
            population.share(cluster.members),
            population.allocated,
            like_free,
            typed=number < TYPED_GROUPS,
        )
        held = judge.held(cache, found.exemplar, population, cluster.members)
        absent = found.absent_rungs if not groups else ()
        groups.append(replace(found, held=held, absent_rungs=absent))
    if joiner is not None:
        groups = joiner.join(
            cache, population, words, grouping.clusters, groups, judge, classifier, progress
        )
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
        reach=judge.of_cache(cache),
    )
    return report, seen.gaps


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

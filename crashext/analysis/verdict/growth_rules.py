"""What an earlier moment, and the kernel's own lists of allocators, add to the verdicts.

Growth alone is no leak: what grew may be in use. Where nobody could look whether it is still held,
that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from crashext.analysis.memory.growth import IN_NO_COUNTER, IN_USE, CacheGrowth, CallerGrowth, Growth
from crashext.analysis.verdict.commands import of_areas, of_cache
from crashext.analysis.verdict.facts import AreaFact, CacheFact, Facts
from crashext.analysis.verdict.verdict import Culprit, Verdict, Where
from crashext.kernel.slab.families import bucket_owners, family
from crashext.wording import (
    bracketed,
    called,
    duration,
    more,
    percent,
    percent_of,
    plural,
    size_text,
)

GROWN_LEAST = 1 << 20
GROWN_SHARE = 0.005
"""Least share of memory by which one cache or caller grew."""
MOST_OF_CACHE = 0.5
"""Least share of a cache's objects that a site must have allocated to be named."""
_EXPLAINED = ("leak", "held-growth", "deferred-free", "fragmentation", "reclaimable")
_YEAR = 365 * 24
_VMCORE = {
    "slab": "what the objects are, and whether anything still points at them",
    "vmalloc": "whether anything still points into these areas",
    "pages": "what is in these pages, and whether anything points at them",
}
_JUDGED = ("leak", "held-growth", "cannot-tell", "fragmentation")


def grown(facts: Facts, found: Sequence[Verdict]) -> Iterator[Verdict]:
    """What grew much, and is in no verdict of `found` yet."""
    if facts.growth is None or not facts.growth.judged:
        return
    least = max(GROWN_LEAST, GROWN_SHARE * facts.total)
    owners = bucket_owners(c.name for c in facts.caches)
    known = {
        family(v.culprit.cache, owners)[0]
        for v in found
        if v.kind in _EXPLAINED and v.culprit.cache
    }
    of_family: dict[str, list[CacheFact]] = {}
    for fact in facts.caches:
        of_family.setdefault(family(fact.name, owners)[0], []).append(fact)
    for cache in facts.growth.caches:
        members = of_family.get(cache.name, [])
        if cache.bytes < least or cache.name in known or not members:
            continue
        if all(m.reclaimable for m in members):
            continue
        largest = max(members, key=lambda m: m.bytes)
        yield (
            _fragmented(facts, cache, largest)
            if cache.fragmenting
            else _held(facts, cache, largest)
        )
    callers = {v.culprit.caller for v in found if v.where == "vmalloc"}
    for caller in facts.growth.vmalloc:
        if caller.bytes >= least and caller.function not in callers:
            yield _held_areas(facts, caller)


_COUNTERS: dict[str, tuple[Where, str, str]] = {
    "SUnreclaim": ("slab", "slab memory that cannot be reclaimed", "cat /proc/slabinfo"),
    "Percpu": ("pages", "per-CPU memory", "cat /sys/fs/cgroup/cgroup.stat"),
    "KernelStack": ("pages", "memory of kernel stacks", "ps -eLf"),
    "PageTables": ("pages", "memory of page tables", "grep VmPTE /proc/[0-9]*/status"),
    "VmallocUsed": ("vmalloc", "vmalloc memory", "cat /proc/vmallocinfo"),
    "GPUActive": ("pages", "memory of graphics drivers", "cat /sys/kernel/debug/dri/0/gem_names"),
    IN_USE: ("none", "memory in use, by processes or the kernel,", "cat /proc/meminfo"),
    IN_NO_COUNTER: ("pages", "memory in no counter", "sort -rn /proc/allocinfo"),
}
"""Lines of meminfo that grow where something leaks: where it is, its name, who tells more."""


def grown_counters(facts: Facts, found: Sequence[Verdict]) -> Iterator[Verdict]:
    """A counter that grows, where no list says whose it is."""
    if facts.growth is None or not facts.growth.judged or facts.source != "procfs":
        return
    least = max(GROWN_LEAST, GROWN_SHARE * facts.total)
    listed = {v.where for v in found if v.kind in _JUDGED and v.bytes >= least}
    for line in facts.growth.meminfo:
        if line.name not in _COUNTERS or line.bytes < least:
            continue
        where, what, step = _COUNTERS[line.name]
        covered = where in listed and not (where == "pages" and line.name != IN_NO_COUNTER)
        if covered and any(v.kind == "held-growth" for v in found if v.where == where):
            continue
        yield Verdict(
            "held-growth",
            where,
            Culprit(),
            line.bytes,
            "low",
            f"{what} grows: {_amount(facts, facts.growth, line.bytes)}",
            (f"{line.name}: {size_text(line.first)}, then {size_text(line.last)}",),
            ("growth alone is no leak: does it go on under the same load?",),
            f"{step} # whose it is; two of them show who grows",
        )


def _held(facts: Facts, cache: CacheGrowth, largest: CacheFact) -> Verdict:
    looked = facts.reachability is not None
    return Verdict(
        "held-growth",
        "slab",
        Culprit(cache=largest.name),
        cache.bytes,
        "medium" if looked else "low",
        f"{cache.name} grows: "
        + (f"{more(cache.active_objs, 'object')}, " if cache.active_objs else "")
        + size_text(cache.bytes)
        + ("; somebody still holds them" if looked else ""),
        (),  # `completed` says how much it grew
        ("everything is reachable: its owner may still drain it",)
        if looked
        else ("growth alone is no leak: nobody looked whether they are still held",),
        _look_into(facts, largest.name),
    )


def _look_into(facts: Facts, cache: str) -> str:
    """What to do about a cache: saved texts need no dump yet, nor a reboot."""
    if facts.source != "procfs" or facts.has_dump:
        return of_cache(cache)
    name = cache if re.fullmatch(r"[\w.:-]{1,128}", cache, re.ASCII) else ""
    return f"leakscan --live 60 {name} # as root, without a reboot: who allocates and does not free"


def _fragmented(facts: Facts, cache: CacheGrowth, largest: CacheFact) -> Verdict:
    return Verdict(
        "fragmentation",
        "slab",
        Culprit(cache=largest.name),
        cache.bytes,
        "medium",
        f"{cache.name} grows in slabs, but not in objects: {size_text(cache.bytes)} of holes, "
        "not a leak",
        (f"its use fell from {percent(cache.use[0])} to {percent(cache.use[1])} of its slots",),
        (),
        of_cache(largest.name),
    )


def _held_areas(facts: Facts, caller: CallerGrowth) -> Verdict:
    looked = facts.reachability is not None
    who = called(caller.function, caller.module)
    return Verdict(
        "held-growth",
        "vmalloc",
        Culprit(caller=caller.function, module=caller.module),
        caller.bytes,
        "medium" if looked else "low",
        f"vmalloc memory of {who} grows: {more(caller.areas, 'area')}, {size_text(caller.bytes)}",
        (),
        ("its areas are still pointed at",)
        if looked
        else ("growth alone is no leak: nobody looked whether they are still held",),
        of_areas(facts, _area(facts, caller)),
    )


def _area(facts: Facts, grown: CallerGrowth) -> AreaFact:
    """The areas of the caller that grew; it has some."""
    who = (grown.function, grown.module)
    now = (a for a in facts.areas if (a.caller, a.module) == who)
    return next(now, AreaFact(*who, grown.areas, 0, grown.bytes, None))


def completed(facts: Facts, verdict: Verdict) -> Verdict:
    """The verdict with what growth and allocation sites say for and against it."""
    verdict = _with_site(facts, verdict)
    if facts.growth is not None and facts.growth.judged:
        pro, con = _growth(facts, facts.growth, verdict)
        if facts.growth.another_boot and (pro or con):
            con = (*con, f"the two are not of the same boot: {facts.growth.another_boot}")
        verdict = structs.replace(
            verdict, evidence=(*verdict.evidence, *pro), against=(*verdict.against, *con)
        )
    add = _VMCORE.get(verdict.where)
    if facts.source == "procfs" and add and verdict.kind in _JUDGED:
        verdict = structs.replace(
            verdict, against=(*verdict.against, f"only a vmcore would tell {add}")
        )
    return verdict


def _with_site(facts: Facts, verdict: Verdict) -> Verdict:
    """Who allocated most of the cache, by alloc_traces."""
    cache = verdict.culprit.cache
    site = next((s for s in facts.sites if cache and s.cache == cache), None)
    if site is None or site.objects < MOST_OF_CACHE * site.of:
        return verdict
    said = (
        f"{bracketed(site.site, site.module)} allocated {site.objects:,} of the {site.of:,} "
        f"objects of {cache} (alloc_traces)"
    )
    culprit = verdict.culprit
    if not culprit.caller:
        culprit = replace(
            culprit, caller=site.site.split(" [")[0], module=culprit.module or site.module
        )
    return structs.replace(verdict, culprit=culprit, evidence=(*verdict.evidence, said))


def _growth(
    facts: Facts, growth: Growth, verdict: Verdict
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences for and against."""
    culprit = verdict.culprit
    if culprit.cache and verdict.where == "slab" and "slabinfo" in growth.compared:
        name = family(culprit.cache, bucket_owners(c.name for c in facts.caches))[0]
        cache = next((c for c in growth.caches if c.name == name), None)
        if cache is not None and cache.active_objs and cache.active_objs > 0 and cache.bytes > 0:
            objects = f"{name} grew by {plural(cache.active_objs, 'object')}"
            return (f"{objects}, {_amount(facts, growth, cache.bytes)}",), ()
        if cache is not None and cache.bytes > 0:
            return (f"{name} grew by {_amount(facts, growth, cache.bytes)}",), ()
        if name in growth.unlisted:
            return (), (f"whether {name} grew is not known: not every moment lists it",)
        return (), (f"{name} did not grow between the two",)
    if culprit.caller and verdict.where == "vmalloc" and "vmallocinfo" in growth.compared:
        caller = next(
            (
                c
                for c in growth.vmalloc
                if (c.function, c.module) == (culprit.caller, culprit.module)
            ),
            None,
        )
        if caller is not None and caller.bytes > 0:
            return (f"it grew by {_amount(facts, growth, caller.bytes)}",), ()
        return (), ("its vmalloc memory did not grow between the two",)
    return (), ()


def _amount(facts: Facts, growth: Growth, size: int) -> str:
    rate = growth.per_hour(size)
    hourly = "" if growth.seconds is None else f" in {duration(growth.seconds)}"
    hourly = f", {size_text(round(rate))} per hour" if rate is not None else hourly
    of_all = f" ({percent_of(size, facts.total)} of memory)" if facts.total else ""
    return f"{size_text(size)}{of_all}{hourly}{_until_exhausted(facts, rate)}"


def _until_exhausted(facts: Facts, rate: float | None) -> str:
    """How long what is free, or can be had back, lasts at this rate; "" beyond a year."""
    if facts.source != "procfs" or not rate or not facts.total:
        return ""
    free = sum(facts.split.get(n) for n in ("free", "file cache", "buffers", "slab, reclaimable"))
    hours = free / rate
    if hours > _YEAR:
        return ""
    return f": at this rate memory lasts {duration(hours * 3600)}"

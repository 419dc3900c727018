"""Rules about slab memory: leaked, held, waiting to be freed, full of holes, reclaimable."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from crashext.analysis.results.estimate import Estimate, count_text
from crashext.analysis.verdict.children import Summed, by_parent, holders_by_parent
from crashext.analysis.verdict.commands import of_cache, of_page_cache, of_stuck_reader
from crashext.analysis.verdict.damage_rules import lost_share, much_lost
from crashext.analysis.verdict.facts import Facts, HolderFact, UnreachableFact
from crashext.analysis.verdict.thresholds import (
    BACKLOG_LEAST,
    FEW,
    HELD_OF_SLAB,
    HELD_SHARE,
    KMEMLEAK_SHARE,
    RECLAIMABLE_SHARE,
    UNREACHABLE_LEAST,
    UNREACHABLE_SHARE,
    USER_SHARE,
    WASTE_SHARE,
    excessive,
)
from crashext.analysis.verdict.verdict import Confidence, Culprit, Verdict
from crashext.analysis.verdict.wording import allocated_by, confidence, doubts, little
from crashext.kernel.slab.families import parent
from crashext.wording import missing, percent, percent_of, plural, root_text, size_text, some_of

_NAMED = 3  # caches of memory cgroups


def unreachable_objects(facts: Facts) -> Iterator[Verdict]:
    """Unreachable objects are leaked."""
    slab = _slab(facts)
    for some in _groups(facts):
        size = sum(f.bytes for f in some)
        share = KMEMLEAK_SHARE if some[0].by == "kmemleak" else UNREACHABLE_SHARE
        if size >= max(UNREACHABLE_LEAST, share * slab) or any(f.traced for f in some):
            found = _leaked(facts, some, confidence(facts), (*doubts(facts), *little(size, facts)))
            yield _hidden(facts, found) if _may_be_hidden(facts, some) else found


def _may_be_hidden(facts: Facts, some: list[UnreachableFact]) -> bool:
    """Slab pages are missing, and nothing but that nobody points at them accuses these objects.

    One array in a missing page may hold as many: the reserve of a mempool, a table. Of a dump that
    was cut short whole tables are missing, those of a filesystem's own objects too.
    """
    if much_lost(facts) and some[0].by == "reachability":
        return True
    seen = facts.reachability
    missing = seen is not None and seen.slab_pages_missing > 0
    return missing and some[0].by == "reachability" and not any(f.module for f in some)


def _hidden(facts: Facts, found: Verdict) -> Verdict:
    says = f"cannot tell: {found.says.split(':')[0].replace('are leaked', 'look unreachable')}"
    lacks = missing(facts.source == "live")
    where = f"slab pages that are {lacks}"
    if much_lost(facts):
        where = f"the {percent(lost_share(facts))} of kernel memory that is {lacks}"
    return replace(
        found,
        kind="cannot-tell",
        confidence="low",
        says=f"{says}: what holds them may be in {where}",
    )


def few_unreachable(facts: Facts) -> Iterator[Verdict]:
    """kmemleak accuses somebody, but of little: it is said where there is nothing else to say."""
    for some in _groups(facts)[:FEW]:
        if some[0].by == "kmemleak":
            only = (
                f"it is only {size_text(sum(f.bytes for f in some))}, and kmemleak errs at times "
                "about what was just allocated: does it stay after another scan?"
            )
            yield _leaked(facts, some, "low", (only, *doubts(facts)))


def _slab(facts: Facts) -> int:
    return sum(p.bytes for p in facts.split.parts if p.name.startswith("slab")) or sum(
        c.bytes for c in facts.caches
    )


def _groups(facts: Facts) -> list[list[UnreachableFact]]:
    """By cache with its children, or by caller where no cache is known; most bytes first."""
    groups: dict[tuple[str, str], list[UnreachableFact]] = {}
    for fact in sorted(facts.unreachable or (), key=lambda f: -f.bytes):
        groups.setdefault((parent(fact.cache), "" if fact.cache else fact.caller), []).append(fact)
    return sorted(groups.values(), key=lambda some: -sum(f.bytes for f in some))


def _leaked(
    facts: Facts, some: list[UnreachableFact], confidence: Confidence, against: tuple[str, ...]
) -> Verdict:
    cache, where = _cache_of(some), some[0].where
    slab = _slab(facts)
    size = sum(f.bytes for f in some)
    module = next((f.module for f in some if f.module), "")
    caller, likely = next(((f.caller, f.likely) for f in some if f.caller), ("", False))
    contains = any(f.contains_symbols for f in some if f.module == module)
    evidence = dict.fromkeys(line for f in some[:2] for line in f.evidence)
    share = f"{percent_of(size, slab)} of slab memory is in them"
    shares: tuple[str, ...] = (share,) if where == "slab" and slab else ()
    names = sorted({f.cache for f in some})
    if len(names) > 1:
        shares += (
            f"in {len(names)} caches, those of memory cgroups included: {some_of(names, _NAMED)}",
        )
    return Verdict(
        "leak",
        where,
        Culprit(cache=cache, module=module, caller=caller),
        size,
        confidence,
        _says(some, size) + allocated_by(caller, module, contains, likely),
        (*shares, *evidence),
        against,
        of_cache(some[0].cache),
    )


def _cache_of(some: list[UnreachableFact]) -> str:
    """The cache they are from, or the parent of them all."""
    return some[0].cache if len({f.cache for f in some}) == 1 else parent(some[0].cache)


def _says(some: list[UnreachableFact], size: int) -> str:
    """``199 task_struct objects are leaked, 995 other objects hang below them: ...``"""
    objects = Estimate.sum(f.objects for f in some)
    below = Estimate.sum(f.below for f in some)
    cache, where = _cache_of(some), some[0].where
    kind = f"{cache} object" if cache else "object" if where == "slab" else "per-CPU object"
    one = objects.estimate == 1
    are, them = ("is", "it") if one else ("are", "them")
    says = f"{count_text(objects)} {kind}{'' if one else 's'}"
    if below.estimate:
        hang = "object hangs" if below.estimate == 1 else "objects hang"
        says += f" {are} leaked, {count_text(below)} other {hang} below {them}"
        says += f" ({size_text(size)} in all)"
    else:
        says += f" ({size_text(size)}) {are} leaked"
    by = f"kmemleak reports {them}" if some[0].by == "kmemleak" else f"nothing reaches {them}"
    return f"{says}: {by}"


def backlog(facts: Facts) -> Iterator[Verdict]:
    """Memory that was freed, and waits for a grace period that does not come."""
    if facts.backlog is None:
        return
    counted = facts.backlog
    waiting = [h for h in facts.holders if _deferred(h)]
    # A full sheaf of kfree_rcu() is one callback: there, what hangs on the queues is counted.
    hanging = sum(h.objects for h in waiting) if counted.sheaves else 0
    frees = max(counted.total, hanging)
    if frees < BACKLOG_LEAST:
        return
    size = sum(h.bytes for h in waiting)
    largest = max(waiting, key=lambda h: h.bytes, default=None)
    cache = largest.cache if largest else ""
    yield Verdict(
        "deferred-free",
        "slab",
        Culprit(cache=cache, module=largest.module if largest else ""),
        size,
        "high" if waiting else "medium",
        f"{frees:,} frees wait for an RCU grace period"
        + (f" ({size_text(size)}, mostly {cache})" if cache else "")
        + ": a stuck reader or a starved RCU thread, not a leak",
        (
            f"{counted.callbacks:,} call_rcu() callbacks are queued, kfree_rcu() keeps "
            f"{plural(counted.frees, 'object')}"
            + (" outside sheaves, each of which is one callback" if counted.sheaves else ""),
            *(
                f"{plural(h.objects, f'{h.cache} object')} held by {root_text(h.root)}"
                for h in waiting[:3]
            ),
        ),
        () if waiting else ("whose memory it is was not found",),
        of_stuck_reader(facts),
    )


def _deferred(holder: HolderFact) -> bool:
    return holder.root.startswith(("rcu_data", "krc", "RCU's list"))


def held_growth(facts: Facts) -> Iterator[Verdict]:
    """One root that holds much memory of one cache: growth, or a forgotten removal."""
    unreclaimable = sum(c.bytes for c in facts.caches if c.reclaimable is False)
    reclaimable = {n for c in facts.caches if c.reclaimable for n in (c.name, parent(c.name))}
    for holder in holders_by_parent(facts.holders, facts.caches):
        if holder.cache in reclaimable or _deferred(holder) or holder.share < 0.5:
            continue
        large = holder.bytes >= HELD_SHARE * facts.total
        dominant = holder.bytes >= HELD_OF_SLAB * unreclaimable
        if not (large and dominant) and not excessive(holder.bytes, facts.total):
            continue
        yield Verdict(
            "held-growth",
            "slab",
            Culprit(cache=holder.cache, module=holder.module, caller=""),
            holder.bytes,
            "medium",
            _held_by(facts, holder),
            (
                *_of_cgroups(facts, holder),
                f"{percent_of(holder.bytes, unreclaimable)} of the slab memory that cannot be "
                "reclaimed",
                f"{percent(holder.share)} of {holder.cache} is reached through "
                f"{root_text(holder.root)}",
            ),
            ("everything is reachable: its owner may still drain it",),
            of_cache(holder.cache),
        )


def _held_by(facts: Facts, holder: HolderFact) -> str:
    objects = (
        f"{'' if holder.exact else '~'}{plural(holder.objects, f'{holder.cache} object')} "
        f"({size_text(holder.bytes)})"
    )
    if not are_cgroups(facts, holder):
        root = root_text(holder.root)
        return f"{root} holds {objects}: growth that somebody still holds, no leak"
    kept, dying = facts.cgroups
    removed = f", {dying:,} of them removed and not gone," if dying else ""
    return f"{kept:,} memory cgroups{removed} have most of {objects}: growth, no leak"


def are_cgroups(facts: Facts, holder: HolderFact) -> bool:
    """Whether most of what is held are structures of memory cgroups, of which each has one or two
    in a cache."""
    kept, _ = facts.cgroups
    return holder.cache in facts.cgroup_caches and 4 * (kept or 0) >= holder.objects


def _of_cgroups(facts: Facts, holder: HolderFact) -> Iterator[str]:
    """What dying ones wait for."""
    kept, dying = facts.cgroups
    if kept and dying and are_cgroups(facts, holder):
        yield (
            f"{dying:,} of {kept:,} memory cgroups are dying: removed, but kept by pages that are "
            "charged to them, most often files in memory or a page cache that nothing reclaims"
        )


def fragmentation(facts: Facts) -> Iterator[Verdict]:
    """A cache whose slabs are mostly holes."""
    for summed in by_parent(facts.caches):
        cache = summed.whole
        if cache.use >= 0.5 or cache.wasted < WASTE_SHARE * facts.total:
            continue
        yield Verdict(
            "fragmentation",
            "slab",
            Culprit(cache=cache.name, module=_module_of(facts, summed.largest)),
            cache.wasted,
            "high",
            f"{cache.name} is fragmented: {size_text(cache.wasted)} of its "
            f"{size_text(cache.bytes)} are free slots that no other cache can use",
            (f"{percent(cache.use)} of {cache.slots:,} slots are allocated", *_children(summed)),
            (),
            of_cache(summed.largest),
        )


def _children(summed: Summed) -> tuple[str, ...]:
    if summed.caches == 1:
        return ()
    return (
        f"in {summed.caches} caches, those of memory cgroups included, most in {summed.largest}",
    )


def _module_of(facts: Facts, cache: str) -> str:
    """The module that holds most of a cache's objects; "" where that is none."""
    return next((h.module for h in facts.holders if h.cache == cache and h.share >= 0.5), "")


def reclaimable(facts: Facts) -> Iterator[Verdict]:
    """Memory that the kernel gives back when somebody needs it."""
    for summed in by_parent(facts.caches):
        cache = summed.whole
        if cache.reclaimable and cache.bytes >= RECLAIMABLE_SHARE * facts.total:
            yield Verdict(
                "reclaimable",
                "slab",
                Culprit(cache=cache.name),
                cache.bytes,
                "high",
                f"{cache.name} has {size_text(cache.bytes)} that the kernel can reclaim: "
                "a cache by design",
                (
                    f"{percent_of(cache.bytes, facts.total)} of memory",
                    "its slabs count as reclaimable",
                    *_children(summed),
                ),
                (),
                of_cache(summed.largest),
            )
    files = facts.split.get("file cache") + facts.split.get("buffers")
    if files >= USER_SHARE * facts.total:
        yield Verdict(
            "reclaimable",
            "user",
            Culprit(),
            files,
            "high",
            f"the page cache has {size_text(files)}, which the kernel drops when memory is needed",
            (f"{percent_of(files, facts.total)} of memory is cache of files",),
            (),
            of_page_cache(facts),
        )

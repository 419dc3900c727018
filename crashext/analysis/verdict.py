"""The verdict: named rules over named numbers, each with its evidence for and against.

A rule looks at `Facts` and says what is wrong, or nothing. A false accusation costs more than an
honest "cannot tell": where a number is missing, no rule that needs it speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..kernel.processtext import Process
from .facts import Facts, HolderFact, LostFact, PagesFact
from .grown import completed, grown
from .judgement import Culprit, Verdict, bracketed, plural, share, share_text
from .sizes import size_text

_GIB = 1 << 30

LOST_LEAST = 64 << 10
"""Unreachable bytes of one cache below which nobody is accused."""
LOST_SHARE = 0.005
"""... and their least share of all slab memory."""
AREAS_LEAST = 512 << 10
AREAS_SHARE = 0.004
"""Least share of memory that is in vmalloc areas of one caller that nothing points into."""
AREAS_UNSEEN_SHARE = 0.10
"""Least share of memory of one caller's areas, where nobody can see what points into them."""
PAGES_SHARE = 0.03
"""Least share of memory that nothing accounts for."""
HELD_SHARE = 0.03
"""Least share of memory that one root holds in one cache that cannot be reclaimed ..."""
HELD_OF_SLAB = 0.25
"""... and its least share of the slab memory that cannot be reclaimed."""
BACKLOG_LEAST = 10_000
"""Callbacks that wait for a grace period: a busy healthy machine has some thousands."""
WASTE_SHARE = 0.03
"""Least share of memory in free slots of one cache of which most slots are free."""
RECLAIMABLE_SHARE = 0.10
FEW = 5
"""Verdicts about leaks that are too small to matter."""
USER_SHARE = 0.25
"""Least share of memory that one process, mount or the page cache has."""
TABLES_SHARE = 0.10
HUGETLB_SHARE = 0.05
_SEVERITY = (
    "leak",
    "deferred-free",
    "held-growth",
    "fragmentation",
    "cannot-tell",
    "user-space",
    "reclaimable",
    "healthy",
)


def excessive(used: int, total: int) -> bool:
    """SysAK's thresholds for one kind of kernel memory on large machines.

    More than 10 % and 1.5 GiB, or 6 GiB; 10 GiB where there are more than 100 GiB.
    """
    most = 10 * _GIB if total > 100 * _GIB else 6 * _GIB
    return used > most or (used > 1.5 * _GIB and used > total / 10)


Rule = Callable[[Facts], Iterator[Verdict]]


def judge(facts: Facts) -> tuple[Verdict, ...]:
    """All verdicts, worst first; never none."""
    doubted = misunderstood(facts)
    if doubted is not None:
        facts = _unjudged(facts)
    # Without MemTotal nothing is much or little.
    rules = RULES if facts.total else (lost_objects,)
    found = [verdict for rule in rules for verdict in rule(facts)]
    if facts.total:
        found += grown(facts, found)
        if doubted is None:
            found += unseen(facts, found)
    if doubted is not None:
        found.append(doubted)
    if not found:
        found = list(few_lost(facts)) or [_healthy(facts) if facts.total else _no_total(facts)]
    found = [completed(facts, verdict) for verdict in found]
    return tuple(sorted(found, key=lambda v: (_SEVERITY.index(v.kind), -v.bytes)))


def misunderstood(facts: Facts) -> Verdict | None:
    """What looks lost is not, where objects look lost that are in use: nobody is accused."""
    seen = facts.reachability
    if seen is None or not seen.misgivings:
        return None
    size = sum(f.bytes for f in facts.lost or () if f.by == "reachability")
    return Verdict(
        "cannot-tell",
        "slab",
        Culprit(),
        size,
        "low",
        f"cannot tell: {size_text(size)} of slab objects look unreachable, but who points at what "
        "was not understood in this dump",
        seen.misgivings,
        tuple(n for n in seen.notes if not any(m in n for m in seen.misgivings)),
        "leakscan CACHE compares what is in the largest caches",
    )


def _unjudged(facts: Facts) -> Facts:
    """The facts without what reachability said."""
    told = tuple(f for f in facts.lost or () if f.by != "reachability")
    return replace(
        facts,
        lost=told or None,
        explained=0,
        holders=(),
        areas=tuple(replace(a, unnamed=None) for a in facts.areas),
        pages=None if facts.pages is None else replace(facts.pages, unnamed=None),
        reachability=None,
        unseen=(*facts.unseen, "who points at what was not understood"),
    )


def lost_objects(facts: Facts) -> Iterator[Verdict]:
    """Objects that nothing reaches are leaked."""
    slab = _slab(facts)
    for lost in _lost(facts):
        if sum(f.bytes for f in lost) >= max(LOST_LEAST, LOST_SHARE * slab):
            yield _leaked(facts, lost, _confidence(facts), _doubts(facts))


def few_lost(facts: Facts) -> Iterator[Verdict]:
    """kmemleak accuses somebody, but of little: it is said where there is nothing else to say."""
    for lost in _lost(facts)[:FEW]:
        if lost[0].by == "kmemleak":
            little = (
                f"it is only {size_text(sum(f.bytes for f in lost))}, and kmemleak errs at times "
                "about what was just allocated: does it stay after another scan?"
            )
            yield _leaked(facts, lost, "low", (little, *_doubts(facts)))


def _slab(facts: Facts) -> int:
    return sum(p.bytes for p in facts.split.parts if p.name.startswith("slab")) or sum(
        c.bytes for c in facts.caches
    )


def _lost(facts: Facts) -> list[list[LostFact]]:
    """By cache, or by caller where no cache is known; most bytes first."""
    groups: dict[tuple[str, str], list[LostFact]] = {}
    for fact in facts.lost or ():
        groups.setdefault((fact.cache, "" if fact.cache else fact.caller), []).append(fact)
    return sorted(groups.values(), key=lambda lost: -sum(f.bytes for f in lost))


def _leaked(
    facts: Facts, lost: list[LostFact], confidence: str, against: tuple[str, ...]
) -> Verdict:
    cache, where = lost[0].cache, lost[0].where
    slab = _slab(facts)
    size = sum(f.bytes for f in lost)
    objects = sum(f.objects for f in lost)
    module = next((f.module for f in lost if f.module), "")
    caller = next((f.caller for f in lost if f.caller), "")
    told = tuple(t for f in lost[:2] for t in f.told)
    below = sum(f.below for f in lost)
    kind = f"{cache} object" if cache else "object" if where == "slab" else "per-CPU object"
    what = plural(objects - below, kind) + (f" and {below:,} below them" * (below > 0))
    are, them = ("is", "it") if objects == 1 else ("are", "them")
    by = f"kmemleak reports {them}" if lost[0].by == "kmemleak" else f"nothing reaches {them}"
    shares = (f"{share(size, slab)} of slab memory is in them",) if where == "slab" and slab else ()
    return Verdict(
        "leak",
        where,
        Culprit(cache=cache, module=module, caller=caller),
        size,
        confidence,
        f"{what} ({size_text(size)}) {are} leaked: {by}" + _by(caller, module),
        (*shares, *told),
        against,
        _scan(facts, cache),
    )


def _scan(facts: Facts, cache: str) -> str:
    """What to ask of a cache next."""
    if facts.source == "procfs":
        return f"leakscan -c VMCORE {cache or '--orphans'}"
    return f"leakscan {cache or '--orphans'}"


def lost_areas(facts: Facts) -> Iterator[Verdict]:
    """vmalloc areas that nothing points into are leaked."""
    for fact in facts.areas:
        lost = fact.unnamed
        least = max(AREAS_LEAST, AREAS_SHARE * facts.total)
        if lost is None or lost < least or 2 * lost < fact.bytes:
            continue
        yield Verdict(
            "leak",
            "vmalloc",
            Culprit(caller=fact.caller, module=fact.module),
            lost,
            _confidence(facts),
            f"{size_text(lost)} of vmalloc memory is leaked: nothing points into the areas of "
            f"{bracketed(fact.caller, fact.module)}",
            (
                f"{plural(fact.areas, 'area')} of one caller, {fact.pages:,} pages, "
                f"{size_text(fact.bytes)}: "
                f"{share(fact.bytes, facts.total)} of memory",
                f"no live word points into {size_text(lost)} of them",
            ),
            _doubts(facts),
            f"crash> kmem -v | grep -i {fact.module or fact.caller.split('+')[0]}",
        )


def large_areas(facts: Facts) -> Iterator[Verdict]:
    """One caller with very much vmalloc memory, which is still in use as far as can be seen."""
    for fact in facts.areas:
        known = fact.unnamed is not None and 2 * fact.unnamed >= fact.bytes
        least = AREAS_UNSEEN_SHARE if fact.unnamed is None else USER_SHARE
        much = fact.bytes >= least * facts.total or excessive(fact.bytes, facts.total)
        if known or not much:
            continue
        held = (
            "its areas are still pointed at"
            if fact.unnamed is not None
            else "this source cannot tell whether anything points at its areas"
        )
        yield Verdict(
            "held-growth",
            "vmalloc",
            Culprit(caller=fact.caller, module=fact.module),
            fact.bytes,
            "medium" if fact.unnamed is not None else "low",
            f"{bracketed(fact.caller, fact.module)} holds {size_text(fact.bytes)} of vmalloc "
            f"memory, {share(fact.bytes, facts.total)} of all",
            (f"{plural(fact.areas, 'area')} of one caller, {fact.pages:,} pages",),
            (held,),
            f"crash> kmem -v | grep -i {fact.module or fact.caller.split('+')[0]}",
        )


def lost_pages(facts: Facts) -> Iterator[Verdict]:
    """Pages from the page allocator that no counter and no owner accounts for."""
    pages = facts.pages
    if pages is None:
        return
    size = pages.bytes
    if size < PAGES_SHARE * facts.total and not excessive(size, facts.total):
        return
    module = next((m for _, m, part in pages.groups if m and part >= 0.25), "")
    if pages.unnamed is None and not module:
        yield _unseen_pages(facts, pages)
        return
    evidence = [f"{share(size, facts.total)} of memory is in no counter and no known structure"]
    if pages.unnamed is not None:
        evidence.append(f"no pointer leads to {size_text(pages.unnamed)} of it")
    evidence += [f"{share_text(part)} of these pages: {what}" for what, _, part in pages.groups[:3]]
    against = _doubts(facts)
    if pages.unnamed is not None and 2 * pages.unnamed < size:
        against += (f"pointers lead to {size_text(size - pages.unnamed)} of it",)
    yield Verdict(
        "leak",
        "pages",
        Culprit(module=module),
        size,
        "medium" if pages.unnamed is not None and 2 * pages.unnamed >= size else "low",
        f"{size_text(size)} of pages are unaccounted for: an alloc_pages() leak is likely"
        + _by("", module),
        tuple(evidence),
        against,
        "boot with page_owner=on where the kernel has it: it names who allocates pages",
    )


def _unseen_pages(facts: Facts, pages: PagesFact) -> Verdict:
    """Nobody looked whose they are, or who points at them: drivers take pages too."""
    return Verdict(
        "cannot-tell",
        "pages",
        Culprit(),
        pages.bytes,
        "low",
        f"cannot tell: {size_text(pages.bytes)} of pages are in no counter: leaked, or a driver's",
        (
            f"{share(pages.bytes, facts.total)} of memory is in no counter",
            *(f"{share_text(part)} of these pages: {what}" for what, _, part in pages.groups[:3]),
        ),
        () if facts.source == "procfs" else ("nobody looked who points at these pages",),
        "boot with page_owner=on where the kernel has it: it names who allocates pages",
    )


def backlog(facts: Facts) -> Iterator[Verdict]:
    """Memory that was freed, and waits for a grace period that does not come."""
    if facts.backlog is None or facts.backlog.total < BACKLOG_LEAST:
        return
    waiting = [h for h in facts.holders if _deferred(h)]
    size = sum(h.bytes for h in waiting)
    largest = max(waiting, key=lambda h: h.bytes, default=None)
    cache = largest.cache if largest else ""
    counted = facts.backlog
    yield Verdict(
        "deferred-free",
        "slab",
        Culprit(cache=cache, module=largest.module if largest else ""),
        size,
        "high" if waiting else "medium",
        f"{counted.total:,} frees wait for an RCU grace period"
        + (f" ({size_text(size)}, mostly {cache})" if cache else "")
        + ": a stuck reader or a starved RCU thread, not a leak",
        (
            f"{counted.callbacks:,} call_rcu() callbacks are queued, kfree_rcu() keeps "
            f"{counted.frees:,} objects",
            *(f"{h.objects:,} {h.cache} objects hang on {h.root}" for h in waiting[:3]),
        ),
        () if waiting else ("whose memory it is was not found",),
        "crash> foreach bt: which task has been inside rcu_read_lock() for long?",
    )


def _deferred(holder: HolderFact) -> bool:
    return holder.root.startswith(("rcu_data", "krc", "RCU's list"))


def held_growth(facts: Facts) -> Iterator[Verdict]:
    """One root that holds much memory of one cache: growth, or a forgotten removal."""
    unreclaimable = sum(c.bytes for c in facts.caches if c.reclaimable is False)
    reclaimable = {c.name for c in facts.caches if c.reclaimable}
    for holder in facts.holders:
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
            f"{holder.root} holds ~{holder.objects:,} {holder.cache} objects "
            f"({size_text(holder.bytes)}): growth that somebody still holds, no lost memory",
            (
                f"{share(holder.bytes, unreclaimable)} of the slab memory that cannot be reclaimed",
                f"{share_text(holder.share)} of {holder.cache} is reached through {holder.root}",
            ),
            ("everything is reachable: its owner may still drain it",),
            _scan(facts, holder.cache),
        )


def fragmentation(facts: Facts) -> Iterator[Verdict]:
    """A cache whose slabs are mostly holes."""
    for cache in facts.caches:
        if cache.use >= 0.5 or cache.wasted < WASTE_SHARE * facts.total:
            continue
        yield Verdict(
            "fragmentation",
            "slab",
            Culprit(cache=cache.name, module=_module_of(facts, cache.name)),
            cache.wasted,
            "high",
            f"{cache.name} is fragmented: {size_text(cache.wasted)} of its "
            f"{size_text(cache.bytes)} are free slots that no other cache can use",
            (f"{share_text(cache.use)} of {cache.slots:,} slots are allocated",),
            (),
            _scan(facts, cache.name),
        )


def _module_of(facts: Facts, cache: str) -> str:
    """The module that holds most of a cache's objects; "" where that is none."""
    return next((h.module for h in facts.holders if h.cache == cache and h.share >= 0.5), "")


def user_space(facts: Facts) -> Iterator[Verdict]:
    """Memory that processes, their page tables, or files in memory have."""
    total, split = facts.total, facts.split
    for process in facts.processes:
        size = process.rss_anon if process.rss_anon is not None else process.rss
        if size >= USER_SHARE * total:
            yield _process(facts, process, size, "of its own memory")
    tables = split.get("page tables")
    if tables >= TABLES_SHARE * total:
        owner = max(facts.processes, key=lambda p: p.page_tables or 0, default=None)
        if owner is not None and owner.page_tables:
            yield _process(facts, owner, tables, "of page tables")
    for mount in facts.mounts:
        if mount.bytes >= USER_SHARE * total:
            yield Verdict(
                "user-space",
                "user",
                Culprit(mount=mount.mount),
                mount.bytes,
                "high",
                f"files on {mount.mount or 'an unmounted tmpfs'} take {size_text(mount.bytes)} "
                "of memory: user space, not the kernel",
                (f"{share(mount.bytes, total)} of memory is in this tmpfs",),
                (),
                f"du -x {mount.mount}" if mount.mount else "crash> mount",
            )
    huge = split.get("hugetlb")
    if huge >= HUGETLB_SHARE * total:
        owner = max(facts.processes, key=lambda p: p.hugetlb or 0, default=None)
        who = f"{owner.comm} (pid {owner.pid})" if owner is not None and owner.hugetlb else ""
        yield Verdict(
            "user-space",
            "user",
            Culprit(process=who),
            huge,
            "high",
            f"the huge page pool has {size_text(huge)}"
            + (f", used by {who}" if who else "")
            + ": user space, not the kernel",
            (f"{share(huge, total)} of memory is in hugetlb's pool",),
            (),
            "cat /proc/sys/vm/nr_hugepages",
        )


def _process(facts: Facts, process: Process, size: int, what: str) -> Verdict:
    who = f"{process.comm} (pid {process.pid})"
    return Verdict(
        "user-space",
        "user",
        Culprit(process=who),
        size,
        "high",
        f"{who} has {size_text(size)} {what}: user space, not the kernel",
        (f"{share(size, facts.total)} of memory",),
        (),
        f"crash> vm {process.pid}",
    )


def reclaimable(facts: Facts) -> Iterator[Verdict]:
    """Memory that the kernel gives back when somebody needs it."""
    for cache in facts.caches:
        if cache.reclaimable and cache.bytes >= RECLAIMABLE_SHARE * facts.total:
            yield Verdict(
                "reclaimable",
                "slab",
                Culprit(cache=cache.name),
                cache.bytes,
                "high",
                f"{cache.name} has {size_text(cache.bytes)} that the kernel can reclaim: "
                "a cache by design",
                (f"{share(cache.bytes, facts.total)} of memory", "its slabs count as reclaimable"),
                (),
                _scan(facts, cache.name),
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
            (f"{share(files, facts.total)} of memory is cache of files",),
            (),
            "echo 1 > /proc/sys/vm/drop_caches shows how much of it comes back",
        )


RULES: tuple[Rule, ...] = (
    lost_objects,
    lost_areas,
    large_areas,
    lost_pages,
    backlog,
    held_growth,
    fragmentation,
    user_space,
    reclaimable,
)


def unseen(facts: Facts, found: Sequence[Verdict]) -> Iterator[Verdict]:
    """Much kernel memory beyond what the verdicts explain, and nobody could look who holds it."""
    if facts.reachability is not None:
        return
    stuck = facts.split.get("slab, unreclaimable") or sum(
        c.bytes for c in facts.caches if c.reclaimable is not True
    )
    stuck -= sum(v.bytes for v in found if v.where == "slab" and v.kind != "reclaimable")
    if stuck < RECLAIMABLE_SHARE * facts.total and not excessive(stuck, facts.total):
        return
    largest = next((c for c in facts.caches if c.reclaimable is not True), None)
    evidence = [f"{share(stuck, facts.total)} of memory is slab memory that cannot be reclaimed"]
    if largest is not None:
        evidence.append(
            f"{largest.name} has {size_text(largest.bytes)}: {largest.allocated:,} objects"
        )
    if facts.lost is not None:
        lost = sum(f.bytes for f in facts.lost)
        evidence.append(f"kmemleak reports {size_text(lost) if lost else 'nothing'} of it")
    yield Verdict(
        "cannot-tell",
        "slab",
        Culprit(cache=largest.name if largest else ""),
        stuck,
        "low",
        f"cannot tell: {size_text(stuck)} of slab memory cannot be reclaimed, and this source "
        "does not say whether anything still points at it",
        tuple(evidence),
        _not_seen(facts),
        "leakscan -c VMCORE" if facts.source == "procfs" else "leakscan --refs",
    )


def _no_total(facts: Facts) -> Verdict:
    """Nothing says how much memory there is: only who has most."""
    cache = max(facts.caches, key=lambda c: c.bytes, default=None)
    area = max(facts.areas, key=lambda a: a.bytes, default=None)
    where, culprit, size = "none", Culprit(), 0
    evidence = []
    if cache is not None:
        where, culprit, size = "slab", Culprit(cache=cache.name), cache.bytes
        evidence.append(f"{cache.name} has most slab memory, {size_text(size)}")
    if area is not None:
        everything = sum(a.bytes for a in facts.areas)
        evidence.append(
            f"{bracketed(area.caller, area.module)} has most vmalloc memory, "
            f"{size_text(area.bytes)}: {area.pages:,} pages, {share(area.bytes, everything)} of it"
        )
        if area.bytes > size:
            where, size = "vmalloc", area.bytes
            culprit = Culprit(caller=area.caller, module=area.module)
    return Verdict(
        "cannot-tell",
        where,
        culprit,
        size,
        "low",
        "cannot tell: how much memory there is is not known",
        tuple(evidence),
        _not_seen(facts),
        "cat /proc/meminfo, saved beside the other files",
    )


def _healthy(facts: Facts) -> Verdict:
    evidence = [f"{share(facts.split.get('free'), facts.total)} of memory is free"]
    if facts.lost is not None:
        lost = sum(f.bytes for f in facts.lost)
        if facts.reachability is None:
            evidence.append("kmemleak reports nothing")
        elif lost:
            evidence.append(f"all slab objects but {size_text(lost)} can be reached")
        else:
            evidence.append("every slab object can be reached")
    if facts.pages is not None:
        evidence.append(f"all but {size_text(facts.pages.bytes)} of memory is accounted for")
    return Verdict(
        "healthy",
        "none",
        Culprit(),
        0,
        _confidence(facts) if facts.reachability is not None else "low",
        "no leak is to be seen",
        tuple(evidence),
        _not_seen(facts) if facts.reachability is None else _doubts(facts),
        "leakscan --before OLDER-DUMP says what grows",
    )


def _confidence(facts: Facts) -> str:
    seen = facts.reachability
    if seen is None:
        return "high" if any(f.by == "kmemleak" for f in facts.lost or ()) else "medium"
    missing = seen.pages_missing / max(1, seen.pages_present + seen.pages_missing)
    return "medium" if missing > 0.01 or seen.sampled or seen.notes else "high"


def _doubts(facts: Facts) -> tuple[str, ...]:
    return facts.reachability.notes if facts.reachability is not None else ()


def _not_seen(facts: Facts) -> tuple[str, ...]:
    return tuple(f"not seen: {what}" for what in facts.unseen)


def _by(caller: str, module: str) -> str:
    if caller:
        return f"; allocated by {caller}" + (f" [{module}]" if module else "")
    return f"; they name {module}" if module else ""

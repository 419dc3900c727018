"""The verdict: named rules over named numbers, each with its evidence for and against.

A rule looks at `Facts` and says what is wrong, or nothing. A false accusation costs more than an
honest "cannot tell": where a number is missing, no rule that needs it speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..kernel.processtext import Process
from .facts import Facts, HolderFact, LostFact
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
    found = [verdict for rule in RULES for verdict in rule(facts)]
    if not found:
        found = [_unseen(facts) or _healthy(facts)]
    return tuple(sorted(found, key=lambda v: (_SEVERITY.index(v.kind), -v.bytes)))


def lost_objects(facts: Facts) -> Iterator[Verdict]:
    """Objects that nothing reaches are leaked."""
    if facts.lost is None:
        return
    slab = facts.split.get("slab") or sum(c.bytes for c in facts.caches)
    by_cache: dict[str, list[LostFact]] = {}
    for fact in facts.lost:
        by_cache.setdefault(fact.cache, []).append(fact)
    for cache, lost in by_cache.items():
        size = sum(f.bytes for f in lost)
        if size < max(LOST_LEAST, LOST_SHARE * slab):
            continue
        objects = sum(f.objects for f in lost)
        first = lost[0]
        module = next((f.module for f in lost if f.module), "")
        caller = next((f.caller for f in lost if f.caller), "")
        told = tuple(t for f in lost[:2] for t in f.told)
        below = sum(f.below for f in lost)
        what = f"{objects - below:,} {cache} objects" + (f" and {below:,} below them" * (below > 0))
        by = "kmemleak reports them" if first.by == "kmemleak" else "nothing reaches them"
        yield Verdict(
            "leak",
            "slab",
            Culprit(cache=cache, module=module, caller=caller),
            size,
            _confidence(facts),
            f"{what} ({size_text(size)}) are leaked: {by}" + _by(caller, module),
            (f"{share(size, slab)} of slab memory is in them", *told),
            _doubts(facts),
            f"leakscan {cache}",
        )


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
        much = fact.bytes >= USER_SHARE * facts.total or excessive(fact.bytes, facts.total)
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
            f"leakscan {holder.cache}",
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
            f"leakscan {cache.name}",
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
                f"leakscan {cache.name}",
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


def _unseen(facts: Facts) -> Verdict | None:
    """Much kernel memory, and nobody could look for who holds it."""
    if facts.lost is not None:
        return None
    stuck = sum(c.bytes for c in facts.caches if c.reclaimable is not True)
    if stuck < RECLAIMABLE_SHARE * facts.total and not excessive(stuck, facts.total):
        return None
    largest = facts.caches[0]
    return Verdict(
        "cannot-tell",
        "slab",
        Culprit(cache=largest.name),
        stuck,
        "low",
        f"cannot tell: {size_text(stuck)} of slab memory cannot be reclaimed, and this source "
        "does not say whether anything still points at it",
        (f"{share(stuck, facts.total)} of memory, most of it {largest.name}",),
        facts.unseen,
        "leakscan --orphans on a vmcore",
    )


def _healthy(facts: Facts) -> Verdict:
    evidence = [f"{share(facts.split.get('free'), facts.total)} of memory is free"]
    if facts.lost is not None:
        lost = sum(f.bytes for f in facts.lost)
        evidence.append(
            f"all slab objects but {size_text(lost)} can be reached"
            if lost
            else "every slab object can be reached"
        )
    if facts.pages is not None:
        evidence.append(f"all but {size_text(facts.pages.bytes)} of memory is accounted for")
    return Verdict(
        "healthy",
        "none",
        Culprit(),
        0,
        _confidence(facts) if facts.lost is not None else "low",
        "no leak is to be seen",
        tuple(evidence),
        facts.unseen if facts.lost is None else _doubts(facts),
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


def _by(caller: str, module: str) -> str:
    if caller:
        return f"; allocated by {caller}" + (f" [{module}]" if module else "")
    return f"; they name {module}" if module else ""

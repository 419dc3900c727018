"""Slab memory that nobody could judge: how much it is, and whose by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crashext.analysis.verdict.commands import of_cache
from crashext.analysis.verdict.facts import CacheFact, Facts, TagFact
from crashext.analysis.verdict.page_rules import unaccounted_tag
from crashext.analysis.verdict.shares import gone
from crashext.analysis.verdict.thresholds import RECLAIMABLE_SHARE, excessive
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.analysis.verdict.wording import not_seen
from crashext.kernel.slab.families import family
from crashext.wording import called, percent_of, plural, size_text

_COMPARABLE = 0.5
_MOST_NAMED = 3
_NOT_MORE = 1.1
_TELLS = 0.25
_MOST = 0.5
_KMEMLEAK = "kmemleak_object"
_PURPOSES = (
    ((_KMEMLEAK,), "kmemleak's own notes, one for each object that it follows"),
    (("debug_objects_cache",), "notes of debugobjects, one for each object that it follows"),
    (("task_struct", "signal_cache", "sighand_cache"), "one for each thread: are there so many?"),
    (("arc_", "zio_", "abd_", "dnode_t", "dmu_buf", "spl_"), "ZFS's cache (see arcstats)"),
    (("ebitmap_node", "avtab_node"), "SELinux's policy: does it grow when a policy is loaded?"),
    (("nf_conntrack",), "connections that netfilter follows: is nf_conntrack_max high?"),
    (("skbuff_head_cache", "skbuff_fclone"), "packets: queued in sockets, or lost by a driver"),
    (("Acpi-",), "ACPI's objects"),
    (("filp",), "open files: does a process leak descriptors?"),
    (("names_cache",), "paths of system calls under way: is audit's queue long?"),
    (("audit_buffer",), "audit records: does auditd keep up?"),
    (("kmalloc-rcl", "dentry", "inode_cache"), "a cache of the file system's names"),
)
"""What caches are for, by the beginning of their names."""


def unjudged_slab(facts: Facts, found: Sequence[Verdict]) -> Iterator[Verdict]:
    """Much kernel memory beyond what the verdicts explain, and nobody could look who holds it."""
    if facts.reachability is not None:
        return
    stuck = _stuck(facts)
    stuck -= sum(v.bytes for v in found if v.where == "slab" and v.kind != "reclaimable")
    if stuck < RECLAIMABLE_SHARE * facts.total and not excessive(stuck, facts.total):
        return
    named = _largest(facts)
    largest = named[0] if named else None
    share = percent_of(stuck, facts.total)
    evidence = [f"{share} of memory is slab memory that {_fate(facts)}"]
    evidence += [f"{c.name} has {size_text(c.bytes)}{_objects(c)}" for c in named]
    evidence += [f"{c.name}: {p}" for c in named if (p := purpose(c.name))]
    if facts.unreachable is not None:
        size = sum(f.bytes for f in facts.unreachable)
        evidence.append(f"kmemleak reports {size_text(size) if size else 'nothing'} of it")
    uncounted = _uncounted(facts)
    cache = largest.name if largest else ""
    whose = "; ".join(f"{c.name} has {size_text(c.bytes)}" for c in named)
    if uncounted:
        cache = facts.uncounted[0] if len(facts.uncounted) == 1 else ""
        names = ", ".join(facts.uncounted[:_MOST_NAMED])
        whose = f"{size_text(uncounted)} is in no cache that could be counted; {names} could not"
        evidence.append(f"crash could not count {names}: what is missing may be there")
    tag = _tag(facts, stuck)
    if tag is not None:
        who = f"{tag.place} ({called(tag.function, tag.module)})"
        whose += f"; allocated at {who}, which holds {size_text(tag.bytes)}, as allocinfo says"
        evidence.append(f"allocinfo: {tag.calls:,} calls at {tag.place}")
    yield Verdict(
        "cannot-tell",
        "slab",
        Culprit(cache, tag.function if tag else "", tag.module if tag else ""),
        stuck,
        "low",
        f"cannot tell: {size_text(stuck)} of slab memory ({share} of memory) {_fate(facts)}"
        + (f": {whose}" if whose else "")
        + "; this source does not say whether anything still points at it",
        tuple(evidence),
        not_seen(facts),
        _next(facts, cache),
    )


def _fate(facts: Facts) -> str:
    """Counters before 2.6.19, and crash's, do not tell slabs apart."""
    split = facts.split.get("slab, unreclaimable") or facts.split.get("slab, reclaimable")
    if facts.split.get("slab") and not split:
        return "is not told apart into what can be reclaimed and what cannot"
    return "cannot be reclaimed"


def _tag(facts: Facts, stuck: int) -> TagFact | None:
    """The line of source that holds most of these objects."""
    of_pages = unaccounted_tag(facts)
    for tag in facts.tags:
        if tag.counted is None and tag is not of_pages and tag.bytes <= _NOT_MORE * stuck:
            return tag if tag.bytes >= _TELLS * stuck else None
    return None


def unexplained(facts: Facts) -> Iterator[Verdict]:
    """Most of what is in use is in no counter that the source has: nobody may call it healthy."""
    if facts.source != "procfs" or facts.pages is not None:
        return
    rest = facts.split.unaccounted
    listed = sum(p.rss for p in facts.processes)
    if rest < _MOST * gone(facts) or rest < RECLAIMABLE_SHARE * facts.total:
        return
    who = (
        f"; the processes that are listed ({len(facts.processes):,}) have "
        f"{size_text(listed)}, what they share counted for each"
        if listed
        else ""
    )
    yield Verdict(
        "cannot-tell",
        "none",
        Culprit(),
        rest,
        "low",
        f"cannot tell: {size_text(rest)} ({percent_of(rest, facts.total)} of memory) is in use, "
        f"and nothing here says by whom, processes or the kernel{who}{_space(facts, rest)}",
        (f"{percent_of(facts.split.get('free'), facts.total)} of memory is free",),
        not_seen(facts),
        "cat /proc/meminfo # it tells processes, slabs and the rest apart",
    )


def _space(facts: Facts, rest: int) -> str:
    """vmalloc's areas may hold what nobody counts, as far as their addresses tell."""
    areas, size = facts.vmalloc_space
    if not size or size < _TELLS * rest:
        return ""
    return (
        f"; {areas:,} vmalloc areas span {size_text(size)} (kmem -v), devices' memory among them: "
        "whose they are it does not say"
    )


def _stuck(facts: Facts) -> int:
    """Slab memory that cannot be reclaimed, as far as the source tells it apart."""
    counted = facts.split.get("slab, unreclaimable")
    whole = facts.split.get("slab")
    if counted or not whole:
        return counted or sum(c.bytes for c in facts.caches if c.reclaimable is not True)
    return max(0, whole - sum(c.bytes for c in facts.caches if c.reclaimable))


def _largest(facts: Facts) -> list[CacheFact]:
    """The largest cache, and those that are about as large."""
    stuck = [c for c in facts.caches if c.reclaimable is not True and c.bytes]
    return [c for c in stuck if c.bytes >= _COMPARABLE * stuck[0].bytes][:_MOST_NAMED]


def _objects(cache: CacheFact) -> str:
    return f": {plural(cache.allocated, 'object')}" if cache.counted else ""


def _uncounted(facts: Facts) -> int:
    """Bytes of slabs that are in no cache, where some caches could not be counted."""
    if not facts.uncounted:
        return 0
    whole = sum(facts.split.get(n) for n in ("slab", "slab, reclaimable", "slab, unreclaimable"))
    rest = whole - sum(c.bytes for c in facts.caches)
    return rest if rest >= _COMPARABLE * whole else 0


def purpose(cache: str) -> str:
    """What a cache is for, where its name tells; "" elsewhere."""
    return next((p for names, p in _PURPOSES if cache.startswith(names)), "")


def _next(facts: Facts, cache: str) -> str:
    if facts.source != "procfs":
        return "leakscan --refs"
    if facts.has_dump:
        return f"{of_cache(cache)} # what its objects are, and who points at them"
    if cache == _KMEMLEAK and facts.unreachable is None:
        return "cat /sys/kernel/debug/kmemleak # kmemleak runs there: what it reports"
    if not facts.caches:
        return "cat /proc/slabinfo # as root: which cache it is"
    growth = facts.growth
    if growth is None or not growth.judged or family(cache)[0] in growth.unlisted:
        return "leakscan --live 60 # as root: what is allocated and not freed; then a vmcore"
    return "leakscan"

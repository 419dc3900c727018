"""Rules about memory that has a name: counters that somebody can explain, and who says he has it.

A counter with a name is no riddle, but it may still be far too much: each says whether it is
normal, and what to do without a reboot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crashext.analysis.verdict.facts import Facts, KnownHolder, OutstandingFact
from crashext.analysis.verdict.thresholds import (
    COUNTER_SHARE,
    KNOWN_SHARE,
    TABLES_SHARE,
    USER_SHARE,
    excessive,
)
from crashext.analysis.verdict.verdict import Confidence, Culprit, Outcome, Verdict, Where
from crashext.wording import called, percent_of, plural, size_text

_STACK = 16 << 10
_DUMP = "dump"
_VERB = {"DMA buffers": "hold"}


def known_holders(facts: Facts) -> Iterator[Verdict]:
    """A balloon, a cache, a device that says itself how much memory it has."""
    for holder in facts.known:
        if holder.bytes < KNOWN_SHARE * facts.total:
            continue
        outside = holder.where == "none"
        yield Verdict(
            "known-holder",
            holder.where,
            Culprit(module=holder.module),
            0 if outside else holder.bytes,
            "high",
            f"the {holder.name} {_VERB.get(holder.name, 'holds')} {size_text(holder.bytes)}"
            + ("" if outside else f" ({percent_of(holder.bytes, facts.total)} of memory)")
            + f": {holder.means}",
            (holder.by, *_placed(facts, holder)),
            (),
            holder.next,
        )


def _placed(facts: Facts, holder: KnownHolder) -> Iterator[str]:
    if holder.where == "none":
        yield "it is more than what is in no counter: MemTotal does not have it any more"
    elif holder.where == "pages":
        yield "no counter of meminfo has it: without it this memory would be unaccounted for"
    if holder.module and holder.module in facts.modules:
        yield f"{holder.module} is loaded"


@dataclass(frozen=True, slots=True)
class _Counter:
    """What a part of memory is where it is large."""

    part: str
    share: float
    kind: Outcome
    where: Where
    confidence: Confidence
    says: str
    next: str
    in_dump: str


_COUNTERS = (
    _Counter(
        "per-CPU",
        COUNTER_SHARE,
        "held-growth",
        "pages",
        "medium",
        "far more than usual; most often memory cgroups that were removed but do not die, or mounts"
        " and network namespaces by the thousand",
        "cat /sys/fs/cgroup/cgroup.stat # nr_dying_descendants: in thousands, it is these; with "
        "cgroup v1, num_cgroups of memory in /proc/cgroups against the folders that there are",
        "crash> kmem -i",
    ),
    _Counter(
        "kernel stacks",
        COUNTER_SHARE,
        "held-growth",
        "pages",
        "medium",
        "each thread has one, so there are very many threads",
        "ps -eLo comm= | sort | uniq -c | sort -rn | head # who has so many threads",
        "crash> ps -S",
    ),
    _Counter(
        "page tables",
        TABLES_SHARE,
        "known-holder",
        "pages",
        "medium",
        "many processes map much shared memory, each with tables of its own (databases without "
        "huge pages), or guests of KVM do",
        "grep -H VmPTE /proc/[0-9]*/status | sort -k2 -rn | head # whose tables they are",
        "crash> kmem -i",
    ),
    _Counter(
        "secondary page tables",
        TABLES_SHARE,
        "known-holder",
        "pages",
        "medium",
        "KVM's tables of its guests' memory, or an IOMMU's",
        "ps -C qemu-system-x86_64,qemu-kvm -o pid,rss,args # the guests",
        "crash> kmem -i",
    ),
    _Counter(
        "zswap pool",
        COUNTER_SHARE,
        "known-holder",
        "pages",
        "high",
        "compressed pages that would be in swap otherwise: normal where zswap is on",
        "grep -r . /sys/module/zswap/parameters # max_pool_percent is its limit",
        "crash> kmem -i",
    ),
    _Counter(
        "balloon",
        KNOWN_SHARE,
        "known-holder",
        "pages",
        "high",
        "the host has taken this memory from the guest: no leak",
        "lsmod | grep -i balloon # whose it is; then ask the host why it takes memory",
        "crash> mod",
    ),
    _Counter(
        "GPU",
        COUNTER_SHARE,
        "known-holder",
        "pages",
        "medium",
        "buffers of graphics drivers; where it only grows, a driver leaks them",
        "grep -E 'drm-(memory|total|resident)' -r /proc/[0-9]*/fdinfo # whose buffers they are",
        "crash> kmem -i",
    ),
    _Counter(
        "bounce buffers",
        COUNTER_SHARE,
        "known-holder",
        "pages",
        "medium",
        "I/O that a device cannot do from where the data is",
        "cat /proc/meminfo # does it stay?",
        "crash> kmem -i",
    ),
    _Counter(
        "FUSE writeback",
        COUNTER_SHARE,
        "known-holder",
        "pages",
        "medium",
        "data that a FUSE server has not written yet: is it stuck?",
        "cat /sys/fs/fuse/connections/*/waiting # a server that does not answer",
        "crash> kmem -i",
    ),
    _Counter(
        "other reclaimable",
        COUNTER_SHARE,
        "reclaimable",
        "pages",
        "medium",
        "memory that a driver gives back when it is short (ION, GPU pools)",
        "cat /proc/meminfo # does KReclaimable shrink when memory is short?",
        "crash> kmem -i",
    ),
    _Counter(
        "hardware corrupted",
        KNOWN_SHARE,
        "known-holder",
        "pages",
        "high",
        "pages that were taken out of use after memory errors: replace the module",
        "ras-mc-ctl --summary # which module",
        "crash> log",
    ),
)


def counters(facts: Facts) -> Iterator[Verdict]:
    """A counter that has a name, and much of memory."""
    owned = any(p.page_tables for p in facts.processes)
    for counter in _COUNTERS:
        size = facts.split.get(counter.part)
        much = size >= counter.share * facts.total or excessive(size, facts.total)
        if any(h.name == counter.part for h in facts.known):
            continue
        if not much or (counter.part == "page tables" and owned):
            continue
        yield Verdict(
            counter.kind,
            counter.where,
            Culprit(),
            size,
            counter.confidence,
            f"{_called(counter.part)} {size_text(size)} ({percent_of(size, facts.total)} of "
            f"memory): {counter.says}",
            tuple(_more(facts, counter.part, size)),
            (),
            counter.in_dump if facts.source == _DUMP else counter.next,
        )


def _called(part: str) -> str:
    names = {
        "per-CPU": "per-CPU memory has",
        "kernel stacks": "kernel stacks have",
        "page tables": "page tables have",
        "secondary page tables": "secondary page tables have",
        "bounce buffers": "bounce buffers have",
        "GPU": "graphics drivers have",
    }
    return names.get(part, f"{part} has")


def _more(facts: Facts, part: str, size: int) -> Iterator[str]:
    if part == "kernel stacks":
        yield f"at 16 KiB each these are about {size // _STACK:,} threads"
    if part != "per-CPU":
        return
    kept, dying = facts.cgroups
    if dying is not None:
        yield f"{dying:,} memory cgroups are dying: removed, but kept by what they hold"
    if kept is not None:
        yield f"the kernel keeps {kept:,} memory cgroups, dying ones included"
    slab = facts.split.get("slab, unreclaimable")
    if slab >= COUNTER_SHARE * facts.total:
        yield (
            f"{size_text(slab)} of slab memory that cannot be reclaimed come with it, as with "
            "cgroups that do not die"
        )


def unnamed_user_memory(facts: Facts) -> Iterator[Verdict]:
    """Processes, or files in memory, have much, but nobody lists which."""
    anonymous = facts.split.get("anonymous")
    if anonymous >= USER_SHARE * facts.total and not facts.processes:
        yield _user(
            facts,
            anonymous,
            f"processes have {size_text(anonymous)} of their own memory: user space, "
            "not the kernel",
            "ps -eo pid,rss,comm --sort=-rss | head # which process",
        )
    files = facts.split.get("shmem and tmpfs")
    if files >= USER_SHARE * facts.total and not facts.mounts:
        yield _user(
            facts,
            files,
            f"shared memory and files in tmpfs have {size_text(files)}: user space, not the kernel",
            "df -t tmpfs; ipcs -mu # which mount, or which segments",
        )


def _user(facts: Facts, size: int, says: str, step: str) -> Verdict:
    return Verdict(
        "user-space",
        "user",
        Culprit(),
        size,
        "medium",
        says,
        (f"{percent_of(size, facts.total)} of memory",),
        ("nothing here says which",),
        step,
    )


def uncounted_vmalloc(facts: Facts) -> Iterator[Verdict]:
    """vmalloc has much, and nobody lists the callers."""
    size = facts.split.get("vmalloc")
    if facts.areas or not (size >= COUNTER_SHARE * facts.total or excessive(size, facts.total)):
        return
    yield Verdict(
        "held-growth",
        "vmalloc",
        Culprit(),
        size,
        "low",
        f"vmalloc has {size_text(size)} ({percent_of(size, facts.total)} of memory): who asked for "
        "it is not known",
        ("VmallocUsed, less kernel stacks",),
        (),
        "cat /proc/vmallocinfo # as root: every area, and who asked for it",
    )


def outstanding(facts: Facts) -> Iterator[Verdict]:
    """What a tool saw allocated and not freed: the first stack, if it stands out."""
    for by in dict.fromkeys(o.by for o in facts.outstanding):
        one = next(o for o in facts.outstanding if o.by == by)
        amount = one.bytes or one.calls
        if not one.function or 4 * amount < one.of:
            continue
        yield Verdict(
            "held-growth",
            "slab",
            Culprit(one.cache, one.function, one.module),
            one.bytes if one.counts == "bytes" else 0,
            "low",
            f"{called(one.function, one.module)} has {_seen_by(one)}",
            (f"{percent_of(amount, one.of)} of the sum in {by}", f"call stack: {one.stack}"),
            (
                "the map alone does not say whether its script takes off what is freed"
                if one.by.startswith("bpftrace")
                else "what was allocated late may still be freed: does it go on?",
            ),
            "leakscan --live 60 # as root: the same, with caches and what the objects are",
        )


def _seen_by(one: OutstandingFact) -> str:
    if one.counts == "unknown":
        return f"{one.bytes:,} in {one.by}: {size_text(one.bytes)}, if it counts bytes"
    if one.counts == "allocations":
        return f"{one.bytes:,} allocations in {one.by}"
    if one.cache:
        size = f" ({size_text(one.bytes)})" if one.bytes else ""
        return (
            f"{plural(one.calls, 'object')} of {one.cache}{size} that were allocated and not freed "
            f"in {one.by}"
        )
    if one.by == "memleak":
        return (
            f"{size_text(one.bytes)} in {one.calls:,} allocations that were not freed while "
            "memleak watched"
        )
    return f"{size_text(one.bytes)} in {one.by}"

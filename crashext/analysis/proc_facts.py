"""What proc files say, in the words that the verdict's rules understand.

A proc file knows no pointers, so nothing here is unreachable, unless kmemleak says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.proc import ProcReport, Snapshot, tells_processes
from crashext.analysis.proc_tags import tag_facts
from crashext.analysis.results.estimate import Estimate
from crashext.analysis.verdict.facts import (
    AreaFact,
    CacheFact,
    Facts,
    OutstandingFact,
    PagesFact,
    SiteFact,
    UnreachableFact,
)
from crashext.kernel.slab.families import by_name, family, parent
from crashext.procfs.kmemleak import KmemleakGroup
from crashext.procfs.pageowner import PageOwner
from crashext.procfs.slabinfo import SlabLine
from crashext.procfs.stacks import PrintedFrame, wanted_at
from crashext.wording import plural

_FRAMES = 6
_GROUPS = 5
_SUM_AGREES = 0.05
_SUM_LEAST = 256 << 10
"""slabinfo and meminfo are read one after the other."""
_VMALLOC = re.compile(r"_*(?:v[mz]alloc|vmap)\w*", re.ASCII)  # kvmalloc() may be kmalloc()
_KMALLOC = re.compile(
    r"_*(?:do_)?k[mzc]?(?:re)?alloc\w*|_*krealloc\w*|kmem_cache_alloc\w*_trace\w*|kmemdup\w*"
    r"|_*kstrn?dup\w*",
    re.ASCII,
)
_LARGEST_KMALLOC = 8192
"""Larger ones have had no cache in SLUB since its beginning, or from 8 KiB up."""

# Caches that every kernel since 3.10 that has them makes with SLAB_RECLAIM_ACCOUNT: fs/dcache.c,
# fs/inode.c, fs/buffer.c, lib/radix-tree.c, fs/*/super.c.
_RECLAIMABLE = re.compile(
    r"dentry|inode_cache|(?:proc|sock|ext[234]|nfs|fat|isofs|cifs|ntfs)_inode_cache|xfs_inode"
    r"|btrfs_inode|fuse_inode|ovl_inode|squashfs_inode_cache|ceph_inode_info|bdev_cache"
    r"|buffer_head|radix_tree_node|ext4_extent_status|jbd2_journal_head|fat_cache|kmalloc-rcl-\w+",
    re.ASCII,
)


def proc_facts(report: ProcReport) -> Facts:
    """Facts of the last moment of `report`. MemTotal is 0 where no meminfo tells it."""
    snapshot = report.snapshot
    caches = _caches(snapshot)
    kmemleak = snapshot.kmemleak.groups if snapshot.kmemleak else ()
    return Facts(
        split=report.split or MemorySplit(0, (), 0),
        caches=caches,
        unreachable=None
        if snapshot.kmemleak is None
        else tuple(_unreachable(g, snapshot) for g in kmemleak if not _is_area(g)),
        areas=_areas(report, [g for g in kmemleak if _is_area(g)]),
        pages=_pages_fact(report),
        processes=report.processes,
        limits=report.limits,
        source="procfs",
        sites=tuple(_sites(snapshot)),
        growth=report.growth,
        known=report.known,
        tags=tag_facts(report),
        modules=snapshot.modules,
        cgroups=snapshot.cgroups,
        uncounted=snapshot.uncounted,
        has_dump=snapshot.cache_list == "kmem_s" or snapshot.counters in ("kmem_i", "crash_sys"),
        outstanding=tuple(_outstanding(snapshot)),
        vmalloc_space=snapshot.vmalloc_space,
        cgroup=snapshot.cgroup,
        cgroup_limit=snapshot.cgroup_limit,
    )


def _caches(snapshot: Snapshot) -> tuple[CacheFact, ...]:
    """Every cache by its own name, the children of memory cgroups added to their parents."""
    if snapshot.slabs is None:
        return ()
    members: dict[str, list[SlabLine]] = {}
    for line in snapshot.slabs.caches:
        members.setdefault(parent(line.name), []).append(line)
    sizes = {n: sum(m.pages for m in ms) * snapshot.page_size for n, ms in members.items()}
    counted = snapshot.meminfo.get("SReclaimable") if snapshot.meminfo else None
    known = reclaimable(sizes, snapshot.reclaim, counted)
    facts = [
        CacheFact(
            name,
            sizes[name],
            sum(m.num_slabs for m in lines),
            sum(m.active_objs for m in lines),
            sum(m.num_objs for m in lines),
            max(m.objsize for m in lines),
            False if snapshot.cache_list == "oom" else known.get(name),
            counted=snapshot.cache_list != "oom",
        )
        for name, lines in members.items()
    ]
    return tuple(sorted(facts, key=lambda c: (-c.bytes, c.name)))


def reclaimable(
    sizes: Mapping[str, int], said: Mapping[str, bool], counted: int | None
) -> dict[str, bool]:
    """Which caches the kernel can reclaim, as far as it is known; `sizes` in bytes by cache.

    Where sysfs says it (`said`), it is known. Elsewhere names suggest it, and the kernel's own sum
    (SReclaimable) must agree: names that come to more than it are not believed; where they come to
    all of it, every other cache is known not to be reclaimable.
    """
    known = {name: said[name] for name in sizes if name in said}
    rest = {name: size for name, size in sizes.items() if name not in said}
    if counted is None:
        return known
    likely = {name for name in rest if _RECLAIMABLE.fullmatch(name)}
    found = sum(rest[n] for n in likely) + sum(sizes[n] for n, yes in known.items() if yes)
    slack = max(_SUM_LEAST, _SUM_AGREES * counted)
    if found <= counted + slack:
        known |= dict.fromkeys(likely, True)
        known |= {
            name: False
            for name, size in rest.items()
            # What is larger than all that is missing from the sum is not in it.
            if name not in likely and size > max(0, counted - found) + slack
        }
    return known


def _is_area(group: KmemleakGroup) -> bool:
    """kmemleak knows of vmalloc areas too."""
    return any(_VMALLOC.fullmatch(f.symbol) for f in _allocator(group.frames))


def _allocator(frames: Sequence[PrintedFrame]) -> list[PrintedFrame]:
    """The innermost frames, which allocate for others."""
    at = wanted_at(frames)
    return list(frames if at is None else frames[:at])


def _unreachable(group: KmemleakGroup, snapshot: Snapshot) -> UnreachableFact:
    evidence = [_stack(group.frames)] if group.frames else []
    if group.comm:
        pid = f" (pid {group.pid})" if group.pid is not None else ""
        evidence.append(f"{group.comm}{pid} allocated the first of them")
    cache, how = _cache(group, snapshot)
    if how:
        evidence.append(how)
    return UnreachableFact(
        "kmemleak",
        "pages" if group.percpu else "slab",
        cache,
        Estimate.known(group.count),
        group.size,
        group.module,
        group.origin.symbol if group.origin else "",
        tuple(evidence),
        (group.example,),
    )


def _stack(frames: Sequence[PrintedFrame]) -> str:
    start = len(_allocator(frames))
    shown = " <- ".join(
        f"{f.symbol}{f' [{f.module}]' if f.module else ''}" for f in frames[start : start + _FRAMES]
    )
    more = " <- ..." if len(frames) > start + _FRAMES else ""
    return f"call stack: {shown}{more}"


def _cache(group: KmemleakGroup, snapshot: Snapshot) -> tuple[str, str]:
    """The cache, and how it is known: kmemleak notes an object's size, not its cache."""
    if group.percpu or group.smallest != group.largest:
        return "", ""
    size = group.smallest
    lines = snapshot.slabs.caches if snapshot.slabs else ()
    if any(_KMALLOC.fullmatch(f.symbol) for f in _allocator(group.frames)):
        if size > _LARGEST_KMALLOC or (size & (size - 1) and size not in (96, 192)):
            return "", f"kmalloc() of {size:,} bytes"
        name = family(f"kmalloc-{size}")[0]
        present = by_name(lines).get(name)
        # Before 4.20 it was kmalloc-1024, before 3.10 size-1024.
        plain = [m.name for m in present.members if not _variant(m.name)] if present else []
        return (plain[0] if plain else name), ""
    fit = [
        c.name
        for c in lines
        if c.objsize == size and c.active_objs >= group.count and "alloc-" not in c.name
    ]
    if len(fit) == 1:
        return fit[0], f"{fit[0]} is the only cache of {size:,}-byte objects"
    return "", f"objects of {size:,} bytes"


def _variant(name: str) -> bool:
    return family(name)[1] not in ("", "size")


def _areas(report: ProcReport, found: Sequence[KmemleakGroup]) -> tuple[AreaFact, ...]:
    """vmalloc by caller; what kmemleak reports as unreferenced is known to be so."""
    page = report.snapshot.page_size
    unreachable: dict[tuple[str, str], list[int]] = {}
    for group in found:
        key = (group.origin.symbol if group.origin else "", group.module)
        entry = unreachable.setdefault(key, [0, 0])
        entry[0] += group.count
        entry[1] += group.size
    facts = []
    for caller in report.vmalloc:
        entry = unreachable.pop((caller.function, caller.module), [0, 0])
        size = caller.pages * page
        known = min(entry[1], size) if entry[0] else None
        facts.append(
            AreaFact(caller.function, caller.module, caller.areas, caller.pages, size, known)
        )
    facts += [
        AreaFact(function, module, areas, size // page, size, size)
        for (function, module), (areas, size) in unreachable.items()
    ]
    return tuple(sorted(facts, key=lambda a: (-a.bytes, a.caller)))


def _pages_fact(report: ProcReport) -> PagesFact | None:
    """What is in no counter; without counters, what page_owner has besides slabs and the like."""
    snapshot, owners = report.snapshot, report.snapshot.page_owner
    if report.split is None:
        if owners is None:
            return None
        size = sum(g.pages for g in owners.groups if g.kind == "kernel") * snapshot.page_size
        return _pages(MemorySplit(size, (), size), owners, snapshot.page_size)
    if snapshot.meminfo is None or not tells_processes(snapshot.meminfo):
        return None
    return _pages(report.split, owners, snapshot.page_size)


def _pages(split: MemorySplit, owners: PageOwner | None, page: int) -> PagesFact:
    """What is in no counter; page_owner's kernel pages name it, page tables among them."""
    size = max(0, split.unaccounted)
    mine = [g for g in owners.groups if g.kind == "kernel"] if owners else []
    return PagesFact(
        size,
        None,
        tuple(
            (
                f"page_owner has {plural(g.pages, 'page')} of "
                f"{g.origin or 'a stack that is not shown'}",
                g.module,
                min(1.0, g.pages * page / size) if size else 0.0,
            )
            for g in mine[:_GROUPS]
        ),
        next((g.origin.symbol for g in mine if g.origin), ""),
    )


def _outstanding(snapshot: Snapshot) -> Iterator[OutstandingFact]:
    """The largest stacks of each source; a trace's objects may be of a size that slabinfo tells."""
    for table in snapshot.outstanding:
        slots = {c.name: c.objsize for c in snapshot.slabs.caches} if snapshot.slabs else {}
        stacks = [
            replace(s, bytes=s.bytes or s.calls * slots.get(s.cache, 0)) for s in table.stacks
        ]
        stacks.sort(key=lambda s: (-s.bytes, -s.calls))
        whole = sum(s.bytes for s in stacks) or sum(s.calls for s in stacks)
        for stack in stacks[:_GROUPS]:
            function, module = stack.origin
            names = [f"{name}{f' [{of}]' if of else ''}" for name, of in stack.frames]
            start = next((i for i, (name, _) in enumerate(stack.frames) if name == function), 0)
            shown = " <- ".join(names[start : start + _FRAMES])
            yield OutstandingFact(
                table.by,
                table.counts,
                function,
                module,
                stack.bytes,
                stack.calls,
                whole,
                shown,
                stack.cache,
            )


def _sites(snapshot: Snapshot) -> Iterator[SiteFact]:
    for cache, traces in snapshot.traces.items():
        top = next((s for s in traces.sites if s.site is not None), None)
        if top is not None and top.site is not None:
            yield SiteFact(cache, top.site.symbol, top.site.module, top.count, traces.objects)

"""What saved texts say, without any dump: the facts of one moment, and of several in time order.

It reads and sums; it does not judge. What it could not read is in `skipped`, and what no proc file
can say is in `limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from crashext.analysis.memory.growth import Caller, Compared, Growth, growth
from crashext.analysis.memory.memsplit import MemorySplit, memory_split, with_holder
from crashext.analysis.proc_counters import Counted, Parsed, counted
from crashext.analysis.proc_holders import known_holders, placed
from crashext.analysis.verdict.facts import KnownHolder
from crashext.hosts.base import HostError
from crashext.kernel.slab.families import Family, families
from crashext.procfs.alloctraces import (
    AllocInfo,
    AllocTraces,
    parse_alloc_traces,
    parse_allocinfo,
    sharpened,
)
from crashext.procfs.counters import (
    BuddyInfo,
    Counters,
    MemInfo,
    ZoneInfo,
    parse_buddyinfo,
    parse_zoneinfo,
)
from crashext.procfs.crashlists import parse_kmem_areas
from crashext.procfs.folder import Moment, ProcFolder
from crashext.procfs.holders import cgroup_parts, counts, memory_cgroups, modules
from crashext.procfs.kmemleak import KmemleakReport, parse_kmemleak
from crashext.procfs.outstanding import OutstandingTable, parse_bpftrace, parse_memleak
from crashext.procfs.pageowner import PageOwner, parse_page_owner
from crashext.procfs.processes import Process, parse_ps, parse_status, parse_top
from crashext.procfs.saved import Recognised, Saved
from crashext.procfs.slabinfo import SlabInfo
from crashext.procfs.slubtrace import parse_slub_trace
from crashext.procfs.vmallocinfo import VmallocCaller, VmallocInfo, by_caller, parse_vmallocinfo
from crashext.skipped import Skipped

_MAX_TRACED = 1 << 16

Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The files of one folder, parsed. None: the file is not there, or could not be read."""

    path: str
    live: bool
    moment: Moment
    page_size: int
    page_size_known: bool
    """False where 4096 is a guess."""
    files: tuple[str, ...]
    """Kinds that were found."""
    meminfo: MemInfo | None = None
    vmstat: Counters | None = None
    zones: ZoneInfo | None = None
    buddy: BuddyInfo | None = None
    slabs: SlabInfo | None = None
    vmalloc: VmallocInfo | None = None
    kmemleak: KmemleakReport | None = None
    page_owner: PageOwner | None = None
    """Of page_owner, or else of page_owner_stacks."""
    allocinfo: AllocInfo | None = None
    traces: Mapping[str, AllocTraces] = field(default_factory=dict)
    """By cache."""
    reclaim: Mapping[str, bool] = field(default_factory=dict)
    """Whether the pages of a cache count as reclaimable, by cache; of those that sysfs has."""
    processes: tuple[Process, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    counters: str = ""
    """Where `meminfo` is from: ``meminfo``, ``oom`` (a report in a log), ``kmem_i``, ``free``."""
    cache_list: str = ""
    """Where `slabs` is from: ``slabinfo``, ``slabtop``, ``oom``, ``kmem_s``."""
    outstanding: tuple[OutstandingTable, ...] = ()
    """What tools saw allocated and not freed."""
    uncounted: tuple[str, ...] = ()
    """Caches that crash could not count."""
    known: tuple[KnownHolder, ...] = ()
    """Who says himself how much memory he has."""
    modules: tuple[str, ...] = ()
    cgroups: tuple[int | None, int | None] = (None, None)
    """Memory cgroups that the kernel keeps, and how many of them are dying."""
    cgroup: tuple[tuple[str, int], ...] = ()
    """What one memory cgroup has, by its memory.stat, largest first."""
    cgroup_limit: int = 0
    """Where it ran into its limit: an OOM report of it, not of the machine."""
    vmalloc_space: tuple[int, int] = (0, 0)
    """Areas and bytes of addresses, by crash's kmem -v."""
    recognised: tuple[Recognised, ...] = ()
    """What was found in which text; empty for known places of a folder."""

    @property
    def exact(self) -> bool:
        """slabinfo counts objects on CPUs' lists as allocated."""
        return False

    @property
    def callers(self) -> tuple[Caller, ...] | None:
        """Who vmalloc()ed, most first; None without vmallocinfo."""
        if self.vmalloc is None:
            return None
        return tuple(
            Caller(c.function, c.module, c.areas, c.pages * self.page_size)
            for c in by_caller(self.vmalloc)
        )


@dataclass(frozen=True)
class ProcReport:
    """The answer to `leakscan --procfs DIR…`: the last moment, and how it came to it."""

    snapshot: Snapshot
    split: MemorySplit | None
    """None without a meminfo that has MemTotal."""
    families: tuple[Family, ...]
    """Caches, most pages first."""
    vmalloc: tuple[VmallocCaller, ...]
    """Callers of vmalloc, most pages first; tasks' stacks among them."""
    processes: tuple[Process, ...]
    """Largest first, by resident and swapped memory."""
    growth: Growth | None
    """None with one moment."""
    known: tuple[KnownHolder, ...]
    """As in the snapshot, and where each of them is counted."""
    limits: tuple[str, ...]
    """What could not be said, and what would say it."""
    skipped: tuple[Skipped, ...]


def read_snapshot(source: ProcFolder | Saved, progress: Progress | None = None) -> Snapshot:
    """Read all texts of one moment. Raises `HostError` when not one has a usable line."""
    folder = Saved(source.path, {}, None, source) if isinstance(source, ProcFolder) else source
    damage: list[Skipped] = []

    def parsed(kind: str, parse: Callable[[Iterator[str]], T]) -> T | None:
        if kind not in folder.kinds:
            return None
        problems = len(folder.problems)
        facts = parse(folder.lines(kind, progress))
        damaged = getattr(facts, "damaged", 0)
        if damaged:
            damage.append(Skipped(f"damaged lines of {kind}", damaged, "what they say is missing"))
        empty = all(not v for k, v in vars(facts).items() if k != "damaged")
        if empty and len(folder.problems) == problems and not damaged:
            damage.append(Skipped(kind, 1, "it is empty"))
        return None if empty and kind != "kmemleak" else facts

    told = counted(parsed)
    tags = parsed("allocinfo", parse_allocinfo) or (told.oom.tags if told.oom else None)
    snapshot = Snapshot(
        path=str(folder.path),
        live=folder.live,
        moment=folder.moment(),
        page_size=told.page_size,
        page_size_known=told.page_size_known,
        files=folder.kinds,
        meminfo=told.meminfo,
        vmstat=told.vmstat,
        zones=parsed("zoneinfo", parse_zoneinfo),
        buddy=parsed("buddyinfo", parse_buddyinfo),
        slabs=told.slabs,
        vmalloc=parsed("vmallocinfo", parse_vmallocinfo),
        kmemleak=parsed("kmemleak", parse_kmemleak),
        page_owner=parsed("page_owner", parse_page_owner)
        or parsed("page_owner_stacks", parse_page_owner),
        allocinfo=tags and sharpened(tags, told.page_size),
        traces=_traces(folder, damage),
        reclaim=folder.reclaim_account(),
        processes=_processes(folder, told, damage),
        counters=told.meminfo_from,
        cache_list=told.slabs_from,
        outstanding=_outstanding(parsed),
        uncounted=told.uncounted,
        known=known_holders(folder, told.meminfo, told.vmstat, told.page_size),
        modules=modules(folder.lines("lsmod")),
        cgroups=_cgroups(folder),
        cgroup=cgroup_parts(
            [*folder.each("memory_stat"), *([told.oom.cgroup] if told.oom is not None else [])]
        ),
        cgroup_limit=(told.oom.cgroup_limit or 0) if told.oom is not None else 0,
        vmalloc_space=_vmalloc_space(parsed),
        recognised=folder.recognised,
    )
    facts = (
        snapshot.meminfo,
        snapshot.slabs,
        snapshot.vmalloc,
        snapshot.kmemleak,
        snapshot.page_owner,
        snapshot.allocinfo,
        snapshot.zones,
        snapshot.buddy,
        snapshot.vmstat,
    )
    problems = tuple(Skipped(p.what, p.count, p.effect) for p in folder.problems)
    some = any(
        (
            snapshot.traces,
            snapshot.processes,
            snapshot.known,
            snapshot.outstanding,
            snapshot.cgroup,
            snapshot.cgroup_limit,
        )
    )
    if not any(f is not None for f in facts) and not some:
        why = f": {problems[0].what}: {problems[0].effect}" if problems else ""
        raise HostError(f"nothing in {folder.path} reads as a proc file{why}")
    return replace(snapshot, skipped=(*problems, *damage))


def report(snapshots: Sequence[Snapshot], before: Compared | None = None) -> ProcReport:
    """Sum up the last of `snapshots`, which are in time order, and what grew since the first.

    `before` is a moment before the first, of whatever source.
    """
    last = snapshots[-1]
    split, known = memory_split(last.meminfo, last.vmalloc, last.page_size), last.known
    if split is not None:
        split = _with_slabs(split, last)
        split, known = placed(split, known)
    moments = [*([before] if before is not None else []), *snapshots]
    return ProcReport(
        snapshot=last,
        split=split,
        families=families(last.slabs.caches) if last.slabs else (),
        vmalloc=by_caller(last.vmalloc) if last.vmalloc else (),
        processes=tuple(sorted(last.processes, key=lambda p: (-p.rss - (p.swap or 0), p.pid))),
        growth=growth(moments) if len(moments) > 1 else None,
        known=known,
        limits=_limits(last),
        skipped=_skipped(snapshots),
    )


def _with_slabs(split: MemorySplit, snapshot: Snapshot) -> MemorySplit:
    """Counters of before 2.6, or of `free`, do not have slabs: their list does."""
    meminfo, slabs = snapshot.meminfo, snapshot.slabs
    if slabs is None or meminfo is None or {"Slab", "SUnreclaim"} & meminfo.sizes.keys():
        return split
    size = slabs.pages * snapshot.page_size
    return with_holder(split, "slab", size, "the sum of all caches") if size else split


def _skipped(snapshots: Sequence[Snapshot]) -> tuple[Skipped, ...]:
    if len(snapshots) == 1:
        return snapshots[0].skipped
    return tuple(
        replace(item, what=f"{item.what} ({snapshot.path})")
        for snapshot in snapshots
        for item in snapshot.skipped
    )


def _outstanding(parsed: Parsed) -> tuple[OutstandingTable, ...]:
    found = (
        parsed("memleak", parse_memleak),
        parsed("bpftrace", parse_bpftrace),
        parsed("slub_trace", parse_slub_trace),
    )
    return tuple(table for table in found if table is not None and table.stacks)


def _vmalloc_space(parsed: Parsed) -> tuple[int, int]:
    found = parsed("kmem_areas", parse_kmem_areas)
    return (found.areas, found.bytes) if found is not None else (0, 0)


def _cgroups(folder: Saved) -> tuple[int | None, int | None]:
    """Memory cgroups in all, and those that were removed but are kept by what they hold."""
    stat = counts(folder.lines("cgroup_stat"))
    dying = stat.get("nr_dying_subsys_memory", stat.get("nr_dying_descendants"))
    return memory_cgroups(folder.lines("cgroups")), dying


def _traces(folder: Saved, damage: list[Skipped]) -> dict[str, AllocTraces]:
    traces: dict[str, AllocTraces] = {}
    damaged = 0
    for cache, lines in islice(folder.alloc_traces(), _MAX_TRACED):
        found = parse_alloc_traces(lines)
        damaged += found.damaged
        if found.sites:
            traces[cache] = found
    if damaged:
        damage.append(Skipped("damaged lines of alloc_traces", damaged, "their sites are missing"))
    return traces


def _processes(folder: Saved, told: Counted, damage: list[Skipped]) -> tuple[Process, ...]:
    found: dict[int, Process] = {}
    damaged = 0
    for lines in folder.status_files():
        process, bad = parse_status(lines)
        damaged += bad
        if process is not None:
            found.setdefault(process.pid, process)
    for kind, parse in (("ps", parse_ps), ("top", parse_top)):
        if not found and kind in folder.kinds:
            listed = parse(folder.lines(kind))
            damaged += listed.damaged
            found = {p.pid: p for p in listed.processes}
    if not found and told.oom is not None:
        found = {p.pid: p for p in told.oom.processes}
    if damaged:
        damage.append(Skipped("damaged lines of processes", damaged, "those sizes may be missing"))
    return tuple(found.values())


def tells_processes(meminfo: MemInfo) -> bool:
    """Whether processes' own memory is counted: not before 2.6.18, nor by crash or `free`."""
    return meminfo.get("AnonPages") is not None


def _limits(snapshot: Snapshot) -> tuple[str, ...]:
    """What is missing here, and what no proc file says."""
    limits = []
    if snapshot.meminfo is None:
        limits.append("how memory is split: no meminfo here")
    if snapshot.meminfo is not None and not tells_processes(snapshot.meminfo):
        limits.append("what is in no counter: these counters leave out what processes have")
    if snapshot.counters == "oom":
        limits.append("what per-CPU memory and vmalloc have, nor what came after the log's report")
    if snapshot.slabs is None:
        limits.append("which cache it is: no slabinfo here (root may read it)")
    if snapshot.vmalloc is None:
        limits.append("who holds vmalloc areas: no vmallocinfo here (root may read it)")
    if not snapshot.processes:
        limits.append("which process holds memory: no status files and no ps output here")
    if snapshot.page_owner is None:
        limits.append(
            "who allocated unaccounted pages: no page_owner here (a kernel that has it needs "
            "page_owner=on at boot)"
        )
    if snapshot.kmemleak is None and not snapshot.traces and snapshot.allocinfo is None:
        limits.append(
            "who allocated the objects of a cache: no kmemleak, alloc_traces (slub_debug=U) or "
            "allocinfo here"
        )
    limits.append(
        "what the objects of a cache are, and whether anything still points at them: that takes "
        "a vmcore (leakscan -c VMCORE), or leakscan -k on the running machine"
    )
    return tuple(limits)

"""Where all of a dump's memory is, counted twice: by the kernel's counters and by its page frames.

The two know nothing of each other, so that where they agree, both are right; where they do not,
`Accounting.checks` says by how much. The rest of either count is what nothing accounts for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.memsplit import MemorySplit, Part, memory_split
from crashext.analysis.memory.pagegroups import PageGroup, PageGroups, group_pages
from crashext.kernel.addresses import PAGE_SHIFT, PAGE_SIZE
from crashext.kernel.counters.meminfo import KernelCounters
from crashext.kernel.counters.tasks import read_processes
from crashext.kernel.counters.vmstat import read_cpu_free
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.filesystems import Tmpfs, read_tmpfs
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.hugetlb import HugePool
from crashext.kernel.pages.leftover import (
    AreaCaller,
    AreaPages,
    Blocks,
    Leftover,
    area_pages,
    blocks,
    leftover,
    reserved_pages,
)
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.roots.stacks import owned_stacks
from crashext.kernel.slab.view import KernelView
from crashext.procfs.counters import MemInfo
from crashext.procfs.processes import Process
from crashext.procfs.vmallocinfo import VmallocInfo

_TOLERANCE = 256 << 10
_RELATIVE = 0.01
_FEW = 32
_MAX_ORDER = 20
_NOWHERE_ELSE = ("SecPageTables", "Bounce", "WritebackTmp", "GPUActive", "GPUReclaim")
"""Counters of pages that nothing in their struct pages tells from others."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of /proc/meminfo, in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Check:
    """One quantity counted both ways, in bytes."""

    name: str
    counted: int
    """By the kernel's counters."""
    found: int
    """By page frames."""

    @property
    def difference(self) -> int:
        return self.found - self.counted

    @property
    def agrees(self) -> bool:
        """Within 1 % or 256 KiB; what only one side can see does not agree, it is not known."""
        if bool(self.counted) != bool(self.found):
            return False
        most = max(_TOLERANCE, int(_RELATIVE * max(self.counted, self.found)))
        return abs(self.difference) <= most


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory that was never given to the page allocator: outside MemTotal. In bytes."""

    total: int
    image: int
    """Of the kernel image, what was not given away after boot."""
    memory_map: int
    """The struct pages, wherever they are."""
    percpu: int
    """The first chunk of per-CPU memory."""


@dataclass(frozen=True, slots=True)
class Order:
    """Allocations of 2**order pages."""

    order: int
    blocks: int
    pages: int


@dataclass(frozen=True, slots=True)
class Unaccounted:
    """The page frames that nothing accounts for."""

    pages: int
    orders: tuple[Order, ...]
    """As they were allocated; estimated where `looked` is fewer than `pages`."""
    looked: int
    groups: tuple[PageGroup, ...]
    sampled: int
    unreadable: int
    """Of the sampled pages: not in the dump."""
    with_kmalloc: int
    """Pages of large kmalloc()s that could not be told from the rest, and are among `pages`."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """All memory of one dump. Everything in bytes, unless it says pages."""

    counted: MemorySplit
    """By the kernel's counters."""
    found: MemorySplit | None
    """By page frames; None where the memory map was not classified."""
    checks: tuple[Check, ...]
    lines: tuple[Line, ...]
    """/proc/meminfo as it would have been."""
    mlocked: int
    """A part of the user's memory."""
    huge_pages: tuple[HugePool, ...]
    callers: tuple[AreaCaller, ...]
    """Who vmalloc()ed, most first; the first few."""
    reserved: Reserved | None
    unaccounted: Unaccounted | None
    processes: tuple[Process, ...]
    """Largest first; the first few."""
    process_count: int
    tmpfs: tuple[Tmpfs, ...]
    limits: tuple[str, ...]
    """What could not be seen, in sentences."""

    @property
    def split(self) -> MemorySplit:
        """The count to report: by page frames where there is one, because it adds up exactly."""
        return self.counted if self.found is None else self.found

    def line(self, name: str) -> int | None:
        """Bytes of a line of meminfo; None where this kernel has none such."""
        return next((line.bytes for line in self.lines if line.name == name), None)


def account(
    view: KernelView, frames: Frames | None, areas: Areas, seed: int = 0
) -> Accounting | None:
    """Account for all memory. None where not even MemTotal can be read.

    Without `frames` only the counters are believed, and no page that they miss can be shown.
    """
    counters = KernelCounters(view.host, view.space)
    meminfo = counters.meminfo()
    mapped = area_pages(view, areas)
    rest = None if frames is None else leftover(view, frames, areas)
    counted = _by_counters(view, counters, meminfo, mapped, rest)
    if counted is None:
        return None
    rng = np.random.default_rng(seed)
    processes = read_processes(view.host, view.space)
    tmpfs = read_tmpfs(view.host, view.space)
    pages = _Pages(view, counters, meminfo, mapped, frames, rest, rng) if frames and rest else None
    found = None if pages is None else pages.split()
    idle = _idle_stacks(view, areas, mapped)
    checks = () if pages is None else tuple(pages.checks(tmpfs, idle))
    if found is not None:
        checks += (Check("unaccounted", counted.unaccounted, found.unaccounted),)
    return Accounting(
        counted=counted,
        found=found,
        checks=checks,
        lines=tuple(Line(name, size) for name, size in meminfo.sizes.items()),
        mlocked=meminfo.get("Mlocked") or 0,
        huge_pages=counters.hugetlb,
        callers=mapped.callers[:_FEW],
        reserved=_reserved(view, counters, frames),
        unaccounted=None if pages is None else pages.unaccounted(),
        processes=processes[:_FEW],
        process_count=len(processes),
        tmpfs=tmpfs[:_FEW],
        limits=tuple(_limits(counters, meminfo, frames, areas)),
    )


def unaccounted_frames(
    view: KernelView, frames: Frames, areas: Areas, seed: int = 0
) -> NDArray[np.int64]:
    """The page frames that `Accounting.unaccounted` speaks of: int64[n], ascending.

    Where there are very many only those that were looked at are taken for large kmalloc()s.
    """
    counters = KernelCounters(view.host, view.space)
    rest = leftover(view, frames, areas)
    mapped = area_pages(view, areas)
    rng = np.random.default_rng(seed)
    return _Pages(view, counters, counters.meminfo(), mapped, frames, rest, rng).left


def _by_counters(
    view: KernelView,
    counters: KernelCounters,
    meminfo: MemInfo,
    mapped: AreaPages,
    rest: Leftover | None,
) -> MemorySplit | None:
    """The counters' split, with what a dump knows better than /proc."""
    base = memory_split(meminfo, VmallocInfo(()), PAGE_SIZE)
    if base is None:
        return None
    ours = ("vmalloc", "per-CPU", "kernel stacks")
    parts = [p for p in base.parts if p.name not in ours]
    cpu_free = read_cpu_free(view.host, view.space) or 0
    parts.insert(1, Part("free, on CPUs' lists", "free", cpu_free << PAGE_SHIFT))
    used = counters.vmalloc if counters.vmalloc is not None else mapped.pages
    stacks, note = _stacks(meminfo, mapped)
    other = max(0, used - mapped.stacks - mapped.modules)
    percpu = counters.percpu
    inside = 0 if percpu is None else max(0, percpu.pages - percpu.boot)
    parts += [
        Part("vmalloc", "kernel", other << PAGE_SHIFT),
        Part("modules", "kernel", mapped.modules << PAGE_SHIFT, "with compiled BPF programs"),
        Part("kernel stacks", "kernel", stacks, note),
        Part("per-CPU", "kernel", inside << PAGE_SHIFT),
    ]
    if rest is not None:
        tables = rest.tables << PAGE_SHIFT
        parts.append(Part("page tables in no counter", "kernel", tables, "found by walking them"))
        tracing = rest.tracing << PAGE_SHIFT
        parts.append(Part("tracing and stack depot", "kernel", tracing, "found by walking them"))
    parts = [p for p in parts if p.bytes or p.name == "free"]
    return MemorySplit(base.total, tuple(parts), base.total - sum(p.bytes for p in parts))


def _idle_stacks(view: KernelView, areas: Areas, mapped: AreaPages) -> int:
    """Pages of stacks that no task has: kept for the next one, or held up by RCU."""
    owned = owned_stacks(view)
    if owned is None:
        return 0
    return int(areas.pages[mapped.is_stack & ~np.isin(areas.start, owned)].sum())


def _stacks(meminfo: MemInfo, mapped: AreaPages) -> tuple[int, str]:
    if mapped.stacks:
        return mapped.stacks << PAGE_SHIFT, "with those kept for the next tasks"
    counted = (meminfo.get("KernelStack") or 0) + (meminfo.get("ShadowCallStack") or 0)
    return counted, "by counter only"


class _Pages:
    """The second count: page frames by use."""

    def __init__(
        self,
        view: KernelView,
        counters: KernelCounters,
        meminfo: MemInfo,
        mapped: AreaPages,
        frames: Frames,
        rest: Leftover,
        rng: np.random.Generator,
    ) -> None:
        self._view, self._counters, self._meminfo = view, counters, meminfo
        self._mapped, self._frames, self._rest, self._rng = mapped, frames, rest, rng
        used = np.bincount(frames.use, minlength=max(FrameUse) + 1)
        self.count = {use: int(used[use]) for use in FrameUse}
        self.total = self._total()
        self.blocks: Blocks = blocks(view, rest.frames, rng)
        self.kmalloc, self.kmalloc_told = self._large_kmalloc()
        self.left = rest.frames
        if self.kmalloc_told:
            mine = self.blocks.kmalloc if self.blocks.kmalloc.any() else self.blocks.compound
            self.left = _without(rest.frames, self.blocks.first[mine], self.blocks.pages[mine])
            self.kmalloc = len(rest.frames) - len(self.left)
        # A stack without VMAP_STACK, an EPT table, a bounce buffer: known by number only.
        others = sum(meminfo.get(name) or 0 for name in _NOWHERE_ELSE)
        if not mapped.stacks:
            others += _stacks(meminfo, mapped)[0]
        self.others = min(others >> PAGE_SHIFT, len(self.left))

    def _total(self) -> int:
        """Page frames that MemTotal means: all but what was reserved at boot."""
        outside = (FrameUse.ABSENT, FrameUse.RESERVED, FrameUse.OFFLINE)
        total = sum(n for use, n in self.count.items() if use not in outside)
        # A balloon takes its pages off MemTotal, unless it may have to give them back at OOM.
        offline, said = self.count[FrameUse.OFFLINE], self._counters.total or 0
        self.balloon = offline if abs(total + offline - said) < abs(total - said) else 0
        return total + self.balloon

    def _large_kmalloc(self) -> tuple[int, bool]:
        """Pages of kmalloc()s beyond the slab caches, and whether it is known which they are.

        Slab counters have them since 6a486c0ad4dc (5.4), and struct pages tell only since 6.15.
        All are compound; where no other compound page is left, these are they.
        """
        slab = (self._meminfo.get("Slab") or 0) >> PAGE_SHIFT
        counted = min(max(0, slab - self.count[FrameUse.SLAB]), len(self._rest.frames))
        whole = self.blocks.looked == len(self._rest.frames)
        if self.blocks.kmalloc.any():
            return counted, whole
        compound = int(self.blocks.pages[self.blocks.compound].sum())
        slack = max(_TOLERANCE >> PAGE_SHIFT, counted // 100)
        return counted, whole and 0 < compound <= counted + slack

    def split(self) -> MemorySplit:
        """Parts in page frames; what is unaccounted is what is left, to the page."""
        count, rest = self.count, self._rest
        free = count[FrameUse.FREE]
        cpu_free = min(read_cpu_free(self._view.host, self._view.space) or 0, free)
        stacks, modules = self._of_areas(rest.vmalloc)
        pages = [
            ("free", "free", free - cpu_free, ""),
            ("free, on CPUs' lists", "free", cpu_free, ""),
            ("anonymous", "user", count[FrameUse.ANON], "with the swap cache"),
            ("file cache", "user", count[FrameUse.FILE], "with buffers"),
            ("shmem and tmpfs", "user", count[FrameUse.SHMEM], ""),
            ("hugetlb", "user", count[FrameUse.HUGETLB], ""),
            ("slab", "kernel", count[FrameUse.SLAB], ""),
            ("large kmalloc", "kernel", self.kmalloc, self._kmalloc_note()),
            ("vmalloc", "kernel", rest.vmalloc - stacks - modules, ""),
            ("modules", "kernel", modules, "with compiled BPF programs"),
            ("kernel stacks", "kernel", stacks, "with those kept for the next tasks"),
            ("page tables", "kernel", count[FrameUse.TABLE], ""),
            ("page tables in no counter", "kernel", rest.tables, "the kernel's, and top levels"),
            ("tracing and stack depot", "kernel", rest.tracing, "in no counter"),
            ("per-CPU", "kernel", rest.percpu, ""),
            ("balloon", "kernel", self.balloon, ""),
            ("known by number only", "kernel", self.others, self._others_note()),
        ]
        parts = tuple(
            Part(name, group, n << PAGE_SHIFT, note)
            for name, group, n, note in pages
            if n or name == "free"
        )
        total = self.total << PAGE_SHIFT
        return MemorySplit(total, parts, total - sum(p.bytes for p in parts))

    def _of_areas(self, found: int) -> tuple[int, int]:
        """(stacks, modules) of the page frames behind areas, never more than were found."""
        stacks = min(self._mapped.stacks, found)
        return stacks, min(self._mapped.modules, found - stacks)

    def _kmalloc_note(self) -> str:
        if not self.kmalloc:
            return ""
        return "the compound pages" if self.kmalloc_told else "by the slab counters; not told apart"

    def _others_note(self) -> str:
        names = [name for name in _NOWHERE_ELSE if self._meminfo.get(name)]
        if not self._mapped.stacks:
            names.append("KernelStack")
        return ", ".join(names)

    def checks(self, tmpfs: tuple[Tmpfs, ...], idle: int) -> Iterator[Check]:
        """What both ways count; `idle` pages are stacks that no task has."""
        size = self._meminfo.get
        count, rest = self.count, self._rest
        cached, shmem = size("Cached"), size("Shmem") or 0
        total = self._counters.total
        found: list[tuple[str, int | None, int]] = [
            ("MemTotal", None if total is None else total << PAGE_SHIFT, self.total),
            ("free", self._free(), count[FrameUse.FREE]),
            ("anonymous", size("AnonPages"), count[FrameUse.ANON]),
            (
                "file cache and buffers",
                None if cached is None else max(0, cached - shmem) + (size("Buffers") or 0),
                count[FrameUse.FILE],
            ),
            ("shmem and tmpfs", size("Shmem"), count[FrameUse.SHMEM]),
            ("hugetlb", size("Hugetlb"), count[FrameUse.HUGETLB]),
            ("slab and large kmalloc", size("Slab"), count[FrameUse.SLAB] + self.kmalloc),
            ("page tables", size("PageTables"), count[FrameUse.TABLE]),
            ("vmalloc", size("VmallocUsed"), rest.vmalloc),
        ]
        if self._mapped.stacks:
            # KernelStack knows those of tasks only, not those that wait for the next one.
            stacks = self._mapped.stacks - idle
            found.append(("kernel stacks", size("KernelStack"), stacks))
        percpu = self._counters.percpu
        if percpu is not None:
            inside = max(0, percpu.pages - percpu.boot) << PAGE_SHIFT
            found.append(("per-CPU", inside, rest.percpu))
        for name, counted, pages in found:
            if counted is not None and (counted or pages):
                yield Check(name, counted, pages << PAGE_SHIFT)
        if tmpfs and all(t.complete for t in tmpfs):
            yield Check("shmem, file by file", shmem, sum(t.bytes for t in tmpfs))

    def _free(self) -> int | None:
        free = self._meminfo.get("MemFree")
        if free is None:
            return None
        return free + ((read_cpu_free(self._view.host, self._view.space) or 0) << PAGE_SHIFT)

    def unaccounted(self) -> Unaccounted:
        """The frames that are left: as they were allocated, and what is in them."""
        groups: PageGroups = group_pages(self._view, self.left, self._rng)
        mine = np.isin(self.blocks.first, self.left)
        orders = self.blocks.orders()[mine]
        scale = len(self._rest.frames) / max(1, self.blocks.looked)
        return Unaccounted(
            pages=len(self.left),
            orders=tuple(_orders(orders, self.blocks.pages[mine], scale)),
            looked=min(self.blocks.looked, len(self.left)),
            groups=groups.groups,
            sampled=groups.sampled,
            unreadable=groups.unreadable,
            with_kmalloc=0 if self.kmalloc_told else self.kmalloc,
        )


def _orders(orders: NDArray[np.int64], pages: NDArray[np.int64], scale: float) -> Iterator[Order]:
    for order in range(_MAX_ORDER):
        which = orders == order
        if which.any():
            yield Order(
                order, round(int(which.sum()) * scale), round(int(pages[which].sum()) * scale)
            )


def _without(
    frames: NDArray[np.int64], first: NDArray[np.int64], pages: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Frames that are in none of the blocks."""
    if not len(first):
        return frames
    at = np.searchsorted(first, frames, side="right") - 1
    inside = (at >= 0) & (frames < first[at] + pages[at])
    return frames[~inside]


def _reserved(view: KernelView, counters: KernelCounters, frames: Frames | None) -> Reserved | None:
    zones, space = counters.zones, view.space
    if zones is None:
        return None
    image = 0
    size = space.image.end - space.image.start
    where, ok = physical(view.host, space, np.array([space.image.start], np.uint64))
    if frames is not None and ok[0]:
        image = reserved_pages(view, frames, int(where[0]), size) << PAGE_SHIFT
    return Reserved(
        total=max(0, zones.present - zones.managed) << PAGE_SHIFT,
        image=image,
        memory_map=view.memory.pages * view.memory.page_size,
        percpu=(counters.percpu.boot if counters.percpu else 0) << PAGE_SHIFT,
    )


def _limits(
    counters: KernelCounters, meminfo: MemInfo, frames: Frames | None, areas: Areas
) -> Iterator[str]:
    if counters.vmstat is None:
        yield "the kernel's page counters cannot be read"
    elif counters.vmstat.unread:
        yield f"{counters.vmstat.unread:,} CPUs' counters cannot be read: up to 127 pages each"
    if counters.percpu is None:
        yield "this kernel does not count per-CPU memory, or the counter cannot be read"
    if meminfo.get("Buffers") is None:
        yield "block devices' inodes cannot be read: buffers are in the file cache"
    if frames is None:
        yield "the memory map was not classified: the counters stand alone"
    elif frames.missing:
        yield f"{frames.missing:,} page frames have no struct page in the dump: in no part"
    if areas.faults:
        yield f"{areas.faults:,} vmalloc areas cannot be read: their pages count as unaccounted"

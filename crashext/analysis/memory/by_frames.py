"""The second count of memory: page frames by use, which knows nothing of the kernel's counters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.memsplit import MemorySplit, Part
from crashext.analysis.memory.pagegroups import PageGroups, group_pages
from crashext.analysis.memory.quantities import Check, Order, Unaccounted
from crashext.distinct import among
from crashext.kernel.counters.meminfo import KernelCounters
from crashext.kernel.counters.vmstat import read_cpu_free
from crashext.kernel.pages.filesystems import Tmpfs
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.leftover import (
    AreaPages,
    Blocks,
    Leftover,
    blocks,
)
from crashext.kernel.slab.view import KernelView
from crashext.procfs.counters import MemInfo

_TOLERANCE = 256 << 10
_MAX_ORDER = 20
_NOWHERE_ELSE = ("SecPageTables", "Bounce", "WritebackTmp", "GPUActive", "GPUReclaim")
"""Counters of pages that nothing in their struct pages tells from others."""


class PageCount:
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
        self.count = {use: frames.count(use) for use in FrameUse}
        self.count[FrameUse.SLAB] += self.count.pop(FrameUse.APART)
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
            others += stacks_of(view, meminfo, mapped)[0]
        self.others = min(others >> self._view.space.page_shift, len(self.left))

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
        slab = (self._meminfo.get("Slab") or 0) >> self._view.space.page_shift
        counted = min(max(0, slab - self.count[FrameUse.SLAB]), len(self._rest.frames))
        whole = self.blocks.looked == len(self._rest.frames)
        if self.blocks.kmalloc.any():
            return counted, whole
        compound = int(self.blocks.pages[self.blocks.compound].sum())
        slack = max(_TOLERANCE >> self._view.space.page_shift, counted // 100)
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
            Part(name, group, n << self._view.space.page_shift, note)
            for name, group, n, note in pages
            if n or name == "free"
        )
        total = self.total << self._view.space.page_shift
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
            (
                "MemTotal",
                None if total is None else total << self._view.space.page_shift,
                self.total,
            ),
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
            inside = max(0, percpu.pages - percpu.boot) << self._view.space.page_shift
            found.append(("per-CPU", inside, rest.percpu))
        for name, counted, pages in found:
            if counted is not None and (counted or pages):
                yield Check(name, counted, pages << self._view.space.page_shift)
        if tmpfs and all(t.complete for t in tmpfs):
            yield Check("shmem, file by file", shmem, sum(t.bytes for t in tmpfs))

    def _free(self) -> int | None:
        free = self._meminfo.get("MemFree")
        if free is None:
            return None
        return free + (
            (read_cpu_free(self._view.host, self._view.space) or 0) << self._view.space.page_shift
        )

    def unaccounted(self) -> Unaccounted:
        """The frames that are left: as they were allocated, and what is in them."""
        groups: PageGroups = group_pages(self._view, self.left, self._rng)
        mine = among(self.blocks.first, self.left)
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


def stacks_of(view: KernelView, meminfo: MemInfo, mapped: AreaPages) -> tuple[int, str]:
    """Bytes of kernel stacks, and how they were counted."""
    if mapped.stacks:
        return mapped.stacks << view.space.page_shift, "with those kept for the next tasks"
    counted = (meminfo.get("KernelStack") or 0) + (meminfo.get("ShadowCallStack") or 0)
    return counted, "by counter only"

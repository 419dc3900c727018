"""Where all of a dump's memory is, counted twice: by the kernel's counters and by its page frames.

The two know nothing of each other, so that where they agree, both are right; where they do not,
`Accounting.checks` says by how much. The rest of either count is what nothing accounts for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.by_frames import PageCount, stacks_of
from crashext.analysis.memory.memsplit import MemorySplit, Part, memory_split
from crashext.analysis.memory.quantities import Check, Line, Reserved, Unaccounted
from crashext.distinct import among
from crashext.kernel.counters.meminfo import KernelCounters
from crashext.kernel.counters.tasks import Unread, processes_of
from crashext.kernel.counters.vmstat import read_cpu_free
from crashext.kernel.lacking import Lacking
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.filesystems import Tmpfs, read_tmpfs
from crashext.kernel.pages.frames import Frames
from crashext.kernel.pages.hugetlb import HugePool
from crashext.kernel.pages.leftover import (
    AreaCaller,
    AreaPages,
    Leftover,
    Pages,
    area_pages,
    reserved_pages,
)
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.roots.stacks import owned_stacks
from crashext.kernel.slab.view import KernelView
from crashext.procfs.counters import MemInfo
from crashext.procfs.processes import Process
from crashext.procfs.vmallocinfo import VmallocInfo
from crashext.wording import missing, size_text

_FEW = 32


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
    view: KernelView, known: Pages | None, areas: Areas, seed: int = 0
) -> Accounting | None:
    """Account for all memory. None where not even MemTotal can be read.

    Without the `known` pages only the counters are believed, and no page that they miss is shown.
    """
    counters = KernelCounters(view.host, view.space)
    meminfo = counters.meminfo()
    mapped = area_pages(view, areas)
    frames, rest = (known.frames, known.rest) if known else (None, None)
    counted = _by_counters(view, counters, meminfo, mapped, rest)
    if counted is None:
        return None
    rng = np.random.default_rng(seed)
    lacking = Lacking()
    processes, unread = processes_of(view.host, view.space, lacking)
    tmpfs = read_tmpfs(view.host, view.space, lacking)
    pages = (
        PageCount(view, counters, meminfo, mapped, frames, rest, rng) if frames and rest else None
    )
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
        limits=(
            *_limits(counters, meminfo, frames, areas, unread, missing(view.host.info().live)),
            *lacking.sentences,
            *(() if rest is None else rest.limits),
        ),
    )


def unaccounted_frames(view: KernelView, known: Pages, seed: int = 0) -> NDArray[np.int64]:
    """The page frames that `Accounting.unaccounted` speaks of: int64[n], ascending.

    Where there are very many only those that were looked at are taken for large kmalloc()s.
    """
    counters = KernelCounters(view.host, view.space)
    mapped = area_pages(view, known.areas)
    rng = np.random.default_rng(seed)
    meminfo = counters.meminfo()
    return PageCount(view, counters, meminfo, mapped, known.frames, known.rest, rng).left


def _by_counters(
    view: KernelView,
    counters: KernelCounters,
    meminfo: MemInfo,
    mapped: AreaPages,
    rest: Leftover | None,
) -> MemorySplit | None:
    """The counters' split, with what a dump knows better than /proc."""
    base = memory_split(meminfo, VmallocInfo(()), view.space.page_size)
    if base is None:
        return None
    ours = ("vmalloc", "per-CPU", "kernel stacks")
    parts = [p for p in base.parts if p.name not in ours]
    cpu_free = read_cpu_free(view.host, view.space) or 0
    parts.insert(1, Part("free, on CPUs' lists", "free", cpu_free << view.space.page_shift))
    used = counters.vmalloc if counters.vmalloc is not None else mapped.pages
    stacks, note = stacks_of(view, meminfo, mapped)
    other = max(0, used - mapped.stacks - mapped.modules)
    percpu = counters.percpu
    inside = 0 if percpu is None else max(0, percpu.pages - percpu.boot)
    parts += [
        Part("vmalloc", "kernel", other << view.space.page_shift),
        Part(
            "modules",
            "kernel",
            mapped.modules << view.space.page_shift,
            "with compiled BPF programs",
        ),
        Part("kernel stacks", "kernel", stacks, note),
        Part("per-CPU", "kernel", inside << view.space.page_shift),
    ]
    if rest is not None:
        tables = rest.tables << view.space.page_shift
        parts.append(Part("page tables in no counter", "kernel", tables, "found by walking them"))
        tracing = rest.tracing << view.space.page_shift
        parts.append(Part("tracing and stack depot", "kernel", tracing, "found by walking them"))
    parts = [p for p in parts if p.bytes or p.name == "free"]
    return MemorySplit(base.total, tuple(parts), base.total - sum(p.bytes for p in parts))


def _idle_stacks(view: KernelView, areas: Areas, mapped: AreaPages) -> int:
    """Pages of stacks that no task has: kept for the next one, or held up by RCU."""
    owned = owned_stacks(view)
    if owned is None:
        return 0
    return int(areas.pages[mapped.is_stack & ~among(areas.start, owned)].sum())


def _reserved(view: KernelView, counters: KernelCounters, frames: Frames | None) -> Reserved | None:
    zones, space = counters.zones, view.space
    if zones is None:
        return None
    image = 0
    size = space.image.end - space.image.start
    where, ok = physical(view.host, space, np.array([space.image.start], np.uint64))
    if frames is not None and ok[0]:
        image = reserved_pages(view, frames, int(where[0]), size) << view.space.page_shift
    return Reserved(
        total=max(0, zones.present - zones.managed) << view.space.page_shift,
        image=image,
        memory_map=view.memory.pages * view.memory.page_size,
        percpu=(counters.percpu.boot if counters.percpu else 0) << view.space.page_shift,
    )


def _limits(
    counters: KernelCounters,
    meminfo: MemInfo,
    frames: Frames | None,
    areas: Areas,
    unread: Unread | None,
    absent: str,
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
        yield f"{frames.missing:,} page frames have struct pages that are {absent}: in no part"
    if frames is not None and frames.guess is not None:
        yield (
            f"{int(frames.guess.pages.sum()):,} page frames are {absent}: that they are "
            f"user pages and free ones is by {frames.guess.looked:,} of them, drawn at random"
        )
    if areas.faults:
        yield f"{areas.faults:,} vmalloc areas cannot be read: their pages count as unaccounted"
    if unread is not None:
        most = "" if unread.each is None else f": up to {size_text(unread.each)} more each"
        yield (
            f"what CPUs have not added to the counters of {unread.processes:,} processes, the "
            f"smaller ones, is left out{most}"
        )

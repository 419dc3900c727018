"""Where MemTotal went, by the kernel's own counters; the rest is what nobody accounts for.

Every page is counted once, as far as the counters allow; where two of them overlap, the comment
says how they are told apart. Sources: fs/proc/meminfo.c and Documentation/filesystems/proc.rst,
3.10 to 6.18. The rest is not yet a leak: drivers, page_pool, and what was reserved after boot
have no counter either.
"""

from __future__ import annotations

from dataclasses import dataclass

from crashext.procfs.counters import MemInfo
from crashext.procfs.vmallocinfo import VmallocInfo


@dataclass(frozen=True, slots=True)
class Part:
    """One part of memory, in bytes."""

    name: str
    group: str
    """``free``, ``user`` or ``kernel``."""
    bytes: int
    note: str = ""
    """How far the number is to be trusted, where there is something to say."""


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """MemTotal in parts: their sum and `unaccounted` make `total`, to the byte."""

    total: int
    parts: tuple[Part, ...]
    """None of them empty, but for ``free``."""
    unaccounted: int
    """The rest. Negative where counters overlap or were read at different moments."""

    def sum(self, group: str) -> int:
        return sum(p.bytes for p in self.parts if p.group == group)

    def get(self, name: str) -> int:
        """Bytes of a part; 0 where it is empty."""
        return sum(p.bytes for p in self.parts if p.name == name)


def memory_split(
    meminfo: MemInfo | None, vmalloc: VmallocInfo | None, page_size: int
) -> MemorySplit | None:
    """Split memory. None without MemTotal."""
    total = meminfo.get("MemTotal") if meminfo else None
    if meminfo is None or total is None:
        return None
    parts = [Part("free", "free", meminfo.get("MemFree") or 0)]
    parts += [p for p in (*_user(meminfo), *_kernel(meminfo, vmalloc, page_size)) if p.bytes]
    return MemorySplit(total, tuple(parts), total - sum(p.bytes for p in parts))


def with_holder(split: MemorySplit, name: str, size: int, note: str) -> MemorySplit:
    """The split with a part that no counter of the kernel has, but whose holder says it."""
    part = Part(name, "kernel", size, note)
    return MemorySplit(split.total, (*split.parts, part), split.unaccounted - size)


def _user(meminfo: MemInfo) -> list[Part]:
    def size(name: str) -> int:
        return meminfo.get(name) or 0

    anon, cached, buffers = size("AnonPages"), size("Cached"), size("Buffers")
    shmem = size("Shmem")  # is part of Cached
    note = ""
    if meminfo.get("Shmem") is None:  # before 2.6.32
        note = "shared memory and tmpfs included"
    # An anonymous page in the swap cache is in AnonPages while it is mapped. What is only in the
    # swap cache is what the LRU lists have beyond everything else that is on them.
    listed = size("Active") + size("Inactive") + size("Unevictable")
    only_swap_cache = max(0, min(size("SwapCached"), listed - anon - cached - buffers))
    return [
        Part("anonymous", "user", anon),
        Part("file cache", "user", max(0, cached - shmem), note),
        Part("buffers", "user", buffers),
        Part("shmem and tmpfs", "user", min(shmem, cached)),
        Part("swap cache", "user", only_swap_cache),
        _hugetlb(meminfo),
    ]


def _hugetlb(meminfo: MemInfo) -> Part:
    everything = meminfo.get("Hugetlb")  # 4.20+: pages of all sizes
    if everything is not None:
        return Part("hugetlb", "user", everything)
    pages = meminfo.counts.get("HugePages_Total", 0)
    size = pages * (meminfo.get("Hugepagesize") or 0)
    return Part("hugetlb", "user", size, "pages of the default size only")


def _kernel(meminfo: MemInfo, vmalloc: VmallocInfo | None, page_size: int) -> list[Part]:
    def size(name: str) -> int:
        return meminfo.get(name) or 0

    reclaimable, unreclaimable = size("SReclaimable"), size("SUnreclaim")
    slab_rest = max(0, size("Slab") - reclaimable - unreclaimable)  # before 2.6.19: not told apart
    kernel_reclaimable = meminfo.get("KReclaimable")  # 4.20+: with SReclaimable in it
    other = max(0, kernel_reclaimable - reclaimable) if kernel_reclaimable is not None else 0
    stacks, areas = _stacks_and_vmalloc(meminfo, vmalloc, page_size)
    return [
        Part("slab, reclaimable", "kernel", reclaimable),
        Part("slab, unreclaimable", "kernel", unreclaimable),
        Part("slab", "kernel", slab_rest),
        Part("other reclaimable", "kernel", other),
        areas,
        Part("page tables", "kernel", size("PageTables")),
        Part("secondary page tables", "kernel", size("SecPageTables")),
        stacks,
        # pcpu_nr_pages() counts the first chunk too, which comes from before MemTotal.
        Part("per-CPU", "kernel", size("Percpu"), "boot's first chunk, outside MemTotal, included"),
        Part("zswap pool", "kernel", size("Zswap")),
        Part("bounce buffers", "kernel", size("Bounce")),
        Part("FUSE writeback", "kernel", size("WritebackTmp")),
        Part("balloon", "kernel", size("Balloon")),  # 6.16+
        Part("GPU", "kernel", size("GPUActive") + size("GPUReclaim")),  # 6.19+
        Part("free, on CPUs' lists", "kernel", size("PcpFree")),  # an OOM report tells it
        Part("hardware corrupted", "kernel", size("HardwareCorrupted")),
    ]


def _stacks_and_vmalloc(
    meminfo: MemInfo, vmalloc: VmallocInfo | None, page_size: int
) -> tuple[Part, Part]:
    """Stacks are vmalloc areas with VMAP_STACK (4.9+), and KernelStack besides: counted once."""
    counted = (meminfo.get("KernelStack") or 0) + (meminfo.get("ShadowCallStack") or 0)
    if vmalloc is not None:
        # The areas include stacks kept for the next task, which KernelStack does not.
        stacks = max(counted, vmalloc.stack_pages * page_size)
        areas = (vmalloc.pages - vmalloc.stack_pages) * page_size
        return Part("kernel stacks", "kernel", stacks), Part("vmalloc", "kernel", areas)
    stacks_part = Part("kernel stacks", "kernel", counted)
    used = meminfo.get("VmallocUsed") or 0
    # Pages since 5.3 (97105f0ab7b8), 0 from 4.4 to 5.2; before, address space with ioremap in it.
    # KReclaimable came in 4.20, so where it is and this is not 0, these are pages.
    if meminfo.get("KReclaimable") is None:
        return stacks_part, Part("vmalloc", "kernel", 0)
    return stacks_part, Part(
        "vmalloc",
        "kernel",
        max(0, used - counted),
        "VmallocUsed less kernel stacks: no vmallocinfo",
    )

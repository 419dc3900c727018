"""/proc/meminfo of a dump: its lines, made from the kernel's own counters.

Source: fs/proc/meminfo.c, mm/show_mem.c si_mem_available() (3.10 to 6.12). Unlike the file, the
numbers have in them what CPUs had not folded into the global counters yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import u64, variable, words_at
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.counters.vmstat import VmStat, Zones, read_vmstat, read_zones
from crashext.kernel.pages.filesystems import buffer_pages
from crashext.kernel.pages.hugetlb import HugePool, read_hugetlb
from crashext.kernel.pages.percpu import PerCpu, percpu_sum, read_percpu
from crashext.procfs.counters import MemInfo

_KIB = 1024
_MAX_SWAPFILES = 32
_TABLE_SIZES = ("4k", "2M", "1G")

# What meminfo's line is called, and the enumerators that it prints, first known first.
_LINES = (
    ("Mlocked", ("NR_MLOCK",)),
    ("Dirty", ("NR_FILE_DIRTY",)),
    ("Writeback", ("NR_WRITEBACK",)),
    # NR_ANON_PAGES until 4.8.
    ("AnonPages", ("NR_ANON_MAPPED", "NR_ANON_PAGES")),
    ("Mapped", ("NR_FILE_MAPPED",)),
    ("Shmem", ("NR_SHMEM",)),
    # d42f3245c7e2 (5.9) counts slabs in bytes, and keeps the sum in pages.
    ("SReclaimable", ("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE")),
    ("SUnreclaim", ("NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE")),
    ("PageTables", ("NR_PAGETABLE",)),
    ("SecPageTables", ("NR_SECONDARY_PAGETABLE",)),
    ("NFS_Unstable", ("NR_UNSTABLE_NFS",)),
    ("Bounce", ("NR_BOUNCE",)),
    ("WritebackTmp", ("NR_WRITEBACK_TEMP",)),
    ("Balloon", ("NR_BALLOON_PAGES",)),
    ("GPUActive", ("NR_GPU_ACTIVE",)),
    ("GPUReclaim", ("NR_GPU_RECLAIM",)),
    ("CmaFree", ("NR_FREE_CMA_PAGES",)),
)
_HUGE_LINES = (
    ("AnonHugePages", "NR_ANON_THPS"),
    ("ShmemHugePages", "NR_SHMEM_THPS"),
    ("ShmemPmdMapped", "NR_SHMEM_PMDMAPPED"),
    ("FileHugePages", "NR_FILE_THPS"),
    ("FilePmdMapped", "NR_FILE_PMDMAPPED"),
)
_LISTS = ("INACTIVE_ANON", "ACTIVE_ANON", "INACTIVE_FILE", "ACTIVE_FILE", "UNEVICTABLE")


class KernelCounters:
    """Everything that this kernel counts about its memory, read once."""

    def __init__(self, host: Host, space: AddressSpace) -> None:
        self.host, self.space = host, space
        self.vmstat: VmStat | None = read_vmstat(host, space)
        self.zones: Zones | None = read_zones(host)
        self.percpu: PerCpu | None = read_percpu(host)
        self.hugetlb: tuple[HugePool, ...] = read_hugetlb(host)
        self.buffers: int | None = buffer_pages(host)
        # ca79b0c211af (5.0) made it an atomic with an underscore.
        total = variable(host, "_totalram_pages") or variable(host, "totalram_pages")
        self.total: int | None = total or (self.zones.managed if self.zones else None)
        """MemTotal in pages."""
        # 97105f0ab7b8 (5.3) made it a variable; it is an item of vmstat in 7.2.
        counted = variable(host, "nr_vmalloc_pages")
        self.vmalloc: int | None = self.pages("NR_VMALLOC") if counted is None else counted

    def pages(self, *names: str) -> int | None:
        """A counter in pages; None where this kernel has none of these names."""
        return None if self.vmstat is None else self.vmstat.get(*names)

    def swap_cache(self) -> int | None:
        """Pages in the swap cache."""
        # b6038942480e (5.12); before, the swap address spaces know.
        counted = self.pages("NR_SWAPCACHE")
        return _swapper_pages(self.host) if counted is None else counted

    def meminfo(self) -> MemInfo:
        """The lines, in bytes. What this kernel does not tell is absent."""
        sizes = {name: value for name, value in self._sizes() if value is not None}
        return MemInfo(sizes, dict(self._counts()))

    def _sizes(self) -> Iterator[tuple[str, int | None]]:
        yield "MemTotal", self._bytes(self.total)
        yield "MemFree", self._bytes(self.pages("NR_FREE_PAGES"))
        yield "MemAvailable", self._bytes(self._available())
        yield "Buffers", self._bytes(self.buffers)
        cached, swapped = self.pages("NR_FILE_PAGES"), self.swap_cache()
        if cached is not None:
            cached = max(0, cached - (swapped or 0) - (self.buffers or 0))
        yield "Cached", self._bytes(cached)
        yield "SwapCached", self._bytes(swapped)
        yield from self._lists()
        yield from self._swap()
        for name, enumerators in _LINES:
            yield name, self._bytes(self.pages(*enumerators))
        yield from self._slab()
        yield from self._stacks()
        # Counted in pages since 69473e5de873 (5.12), which came with NR_SWAPCACHE; before in huge
        # pages.
        scale = 1 if self.host.enumerator("NR_SWAPCACHE") is not None else self.space.page_size // 8
        for name, enumerator in _HUGE_LINES:
            value = self.pages(enumerator)
            yield name, None if value is None else value * scale * self.space.page_size
        yield "CommitLimit", self._commit_limit()
        yield "Committed_AS", self._committed()
        yield "VmallocTotal", (self.space.vmalloc.end - self.space.vmalloc.start - 1) & ~1023
        yield "VmallocUsed", self._bytes(self.vmalloc)
        yield "Percpu", self._bytes(self.percpu.pages if self.percpu else None)
        yield "HardwareCorrupted", self._bytes(variable(self.host, "num_poisoned_pages"))
        yield "CmaTotal", self._bytes(variable(self.host, "totalcma_pages"))
        yield from self._direct_map()
        if self.hugetlb:
            yield "Hugetlb", sum(pool.bytes for pool in self.hugetlb)
            yield "Hugepagesize", next((p.size for p in self.hugetlb if p.default), None)

    def _counts(self) -> Iterator[tuple[str, int]]:
        for pool in self.hugetlb:
            if pool.default:
                yield "HugePages_Total", pool.pages
                yield "HugePages_Free", pool.free
                yield "HugePages_Rsvd", pool.reserved
                yield "HugePages_Surp", pool.surplus

    def _lists(self) -> Iterator[tuple[str, int | None]]:
        base = self.host.enumerator("NR_LRU_BASE")
        known = dict.fromkeys(_LISTS, 0)
        vmstat = self.vmstat
        if base is None or vmstat is None:
            return
        # By node since 599d0c954f91 (4.8).
        values, more = (
            (vmstat.node, vmstat.node_pending)
            if len(vmstat.node)
            else (vmstat.zone, vmstat.zone_pending)
        )
        for name in _LISTS:
            item = self.host.enumerator(f"LRU_{name}")
            if item is None or not 0 <= base + item < len(values):
                return
            known[name] = (
                max(0, int(values[base + item] + more[base + item])) * self.space.page_size
            )
        for list_name in ("Active", "Inactive"):
            anon, file = (known[f"{list_name.upper()}_{kind}"] for kind in ("ANON", "FILE"))
            yield list_name, anon + file
            yield f"{list_name}(anon)", anon
            yield f"{list_name}(file)", file
        yield "Unevictable", known["UNEVICTABLE"]

    def _available(self) -> int | None:
        """si_mem_available()."""
        lists = dict(self._lists())
        free, reserve = self.pages("NR_FREE_PAGES"), variable(self.host, "totalreserve_pages")
        if free is None or reserve is None or self.zones is None or not lists:
            return None
        low = self.zones.low
        cache = (
            (lists["Active(file)"] or 0) + (lists["Inactive(file)"] or 0)
        ) // self.space.page_size
        slabs = self.pages("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE") or 0
        other = self.pages("NR_KERNEL_MISC_RECLAIMABLE", "NR_INDIRECTLY_RECLAIMABLE_BYTES") or 0
        freeable = sum(n - min(n // 2, low) for n in (cache, slabs + other))
        return max(0, free - reserve + freeable)

    def _swap(self) -> Iterator[tuple[str, int | None]]:
        yield "SwapTotal", self._bytes(variable(self.host, "total_swap_pages"))
        yield "SwapFree", self._bytes(variable(self.host, "nr_swap_pages"))
        size = variable(self.host, "zswap_pool_total_size")  # until 6.10 there was a number
        yield "Zswap", size
        # An int until 6.12, whose four bytes come first in the long that it is since.
        yield "Zswapped", self._bytes(variable(self.host, "zswap_stored_pages", 4))

    def _slab(self) -> Iterator[tuple[str, int | None]]:
        reclaimable = self.pages("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE")
        rest = self.pages("NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE")
        if reclaimable is None or rest is None:
            return
        yield "Slab", (reclaimable + rest) * self.space.page_size
        other = self.pages("NR_KERNEL_MISC_RECLAIMABLE")  # b29940c1abd7 (4.20)
        if other is not None:
            yield "KReclaimable", (reclaimable + other) * self.space.page_size

    def _stacks(self) -> Iterator[tuple[str, int | None]]:
        in_kb = self.pages("NR_KERNEL_STACK_KB")  # 4.9; before, in stacks
        if in_kb is not None:
            yield "KernelStack", in_kb * _KIB
        else:
            stacks = self.pages("NR_KERNEL_STACK")
            yield "KernelStack", None if stacks is None else stacks * 4 * self.space.page_size
        shadow = self.pages("NR_KERNEL_SCS_KB")
        yield "ShadowCallStack", None if shadow is None else shadow * _KIB

    def _commit_limit(self) -> int | None:
        """vm_commit_limit()."""
        kbytes = variable(self.host, "sysctl_overcommit_kbytes")
        ratio = variable(self.host, "sysctl_overcommit_ratio", 4)
        if ratio is None or self.total is None:
            return None
        huge = sum(pool.bytes for pool in self.hugetlb) // self.space.page_size
        allowed = kbytes // 4 if kbytes else (self.total - huge) * ratio // 100
        return self._bytes(allowed + (variable(self.host, "total_swap_pages") or 0))

    def _committed(self) -> int | None:
        at = self.host.address_of("vm_committed_as")
        return None if at is None else self._bytes(percpu_sum(self.host, self.space, at))

    def _direct_map(self) -> Iterator[tuple[str, int | None]]:
        table = self.host.address_of("direct_pages_count")
        if table is None:
            return
        for i, name in enumerate(_TABLE_SIZES, 1):  # enum pg_level starts with PG_LEVEL_NONE
            try:
                yield (
                    f"DirectMap{name}",
                    u64(self.host, table + 8 * i) * self.space.page_size << 9 * (i - 1),
                )
            except ReadFault:
                return

    def _bytes(self, pages: int | None) -> int | None:
        return None if pages is None else max(0, pages) * self.space.page_size


def _swapper_pages(host: Host) -> int | None:
    """Pages of all swap address spaces (before 5.12)."""
    layout = host.layout("struct address_space")
    table, lengths = host.address_of("swapper_spaces"), host.address_of("nr_swapper_spaces")
    files = variable(host, "nr_swapfiles", 4)
    if layout is None or files is None or table is None or lengths is None:
        return None
    # 4b3ef9daa4fc (4.11) made an array of arrays of it.
    count = np.arange(min(files, _MAX_SWAPFILES), dtype=np.uint64)
    spaces, ok = words_at(host, np.uint64(table) + count * np.uint64(8))
    total = 0
    for i in np.flatnonzero(ok & (spaces != 0)).tolist():
        try:
            length = min(int.from_bytes(host.read(lengths + 4 * i, 4), "little"), 1 << 20)
        except ReadFault:
            continue
        where = spaces[i] + np.arange(length, dtype=np.uint64) * np.uint64(layout.size)
        pages, read = words_at(host, where + np.uint64(layout["nrpages"].offset))
        total += int(pages[read].sum())
    return total

"""Who says himself how much memory he has, in texts that were saved: balloons, caches, devices.

Each is told from what the kernel counts: what no counter has is missing from `unaccounted`, and is
taken out of it; what is larger than that must be counted elsewhere, or be outside MemTotal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from crashext.analysis.memory.memsplit import MemorySplit, with_holder
from crashext.analysis.verdict.facts import KnownHolder
from crashext.procfs.counters import Counters, MemInfo
from crashext.procfs.holders import (
    arcstats,
    balloon_bytes,
    balloon_pages,
    dma_buf_bytes,
    hyper_v_bytes,
    named_numbers,
    socket_pages,
    xen_bytes,
    zram_bytes,
    zramctl_bytes,
)
from crashext.procfs.saved import Saved
from crashext.wording import plural

_VMWARE_PAGE = 4096
_SLACK = 0.02  # of MemTotal: texts are saved one after the other
_MIB = 1 << 20
_LEAST = 4 * _MIB


def known_holders(
    saved: Saved, meminfo: MemInfo | None, vmstat: Counters | None, page: int
) -> tuple[KnownHolder, ...]:
    """Everybody who says so, largest first."""
    found = [
        *_balloons(saved, meminfo, vmstat, page),
        *_arc(saved),
        *_compressed(saved, meminfo, vmstat, page),
        *_dma_buf(saved),
        *_sockets(saved, page),
    ]
    return tuple(sorted((h for h in found if h.bytes >= _LEAST), key=lambda h: -h.bytes))


def placed(
    split: MemorySplit, holders: tuple[KnownHolder, ...]
) -> tuple[MemorySplit, tuple[KnownHolder, ...]]:
    """The split with those holders that no counter has, and where each of them is counted."""
    told = []
    for holder in holders:
        if holder.where == "slab":
            told.append(holder)
        elif holder.bytes <= split.unaccounted + _SLACK * split.total:
            split = with_holder(split, holder.name, holder.bytes, holder.by)
            told.append(holder)
        elif holder.name == "ZFS ARC":
            told.append(replace(holder, where=_counted_as(split, holder.bytes)))
        else:
            told.append(replace(holder, where="none"))
    return split, tuple(told)


def _counted_as(split: MemorySplit, size: int) -> Literal["slab", "vmalloc"]:
    """OpenZFS takes slab objects, vmalloc areas and bare pages, by its age."""
    vmalloc = split.get("vmalloc")
    return "vmalloc" if vmalloc >= size / 2 else "slab"


def _balloons(
    saved: Saved, meminfo: MemInfo | None, vmstat: Counters | None, page: int
) -> Iterator[KnownHolder]:
    vmware = _vmware(saved)
    if vmware is not None:
        size, by = vmware
        yield KnownHolder(
            "VMware balloon",
            size,
            by,
            "the host has taken this memory from the guest because it is short itself: no leak",
            "pages",
            "vmware-toolbox-cmd stat balloon # ask the host: is its memory overcommitted, or the "
            "guest's limit below its size?",
            "vmw_balloon",
        )
        return
    hyper_v = hyper_v_bytes(saved.lines("hv_balloon")) if "hv_balloon" in saved.kinds else None
    if hyper_v is not None:
        yield KnownHolder(
            "Hyper-V balloon",
            hyper_v,
            "hv-balloon: pages_ballooned",
            "the host has taken this memory from the guest (dynamic memory): no leak",
            "pages",
            "cat /sys/kernel/debug/hv-balloon # then ask the host why it takes memory",
            "hv_balloon",
        )
        return
    xen = xen_bytes(saved.lines("xen")) if "xen" in saved.kinds else None
    if xen is not None:
        yield KnownHolder(
            "Xen balloon",
            xen,
            "xen_memory: low_kb and high_kb",
            "the host has taken this memory from the guest: no leak",
            "pages",
            "grep -r . /sys/devices/system/xen_memory/xen_memory0 # target_kb is what the host "
            "wants the guest to have; xl mem-set on the host changes it",
            "xen",
        )
        return
    if vmstat is None or (meminfo is not None and meminfo.get("Balloon") is not None):
        return
    inflated = vmstat.values.get("balloon_inflate", 0) - vmstat.values.get("balloon_deflate", 0)
    if inflated > 0:
        yield KnownHolder(
            "balloon",
            inflated * page,
            "vmstat: balloon_inflate less balloon_deflate",
            "the host has taken this memory from the guest: no leak",
            "pages",
            "lsmod | grep -i balloon # whose it is; then ask the host why it takes memory",
        )


def _vmware(saved: Saved) -> tuple[int, str] | None:
    if "vmmemctl" in saved.kinds:
        pages = balloon_pages(saved.lines("vmmemctl"))
        if pages is not None:
            return pages * _VMWARE_PAGE, f"vmmemctl: {plural(pages, 'page')}"
    for kind, by in (("cmdstat", "guest.mem.ballooned"), ("toolbox", "vmware-toolbox-cmd stat")):
        if kind in saved.kinds and (size := balloon_bytes(saved.lines(kind))) is not None:
            return size, by
    return None


def _arc(saved: Saved) -> Iterator[KnownHolder]:
    arc = arcstats(saved.lines("arcstats")) if "arcstats" in saved.kinds else None
    if arc is None:
        return
    limit = ""
    if arc.most:
        limit = f"; it may grow to {arc.most / (1 << 30):.1f} GiB"
    yield KnownHolder(
        "ZFS ARC",
        arc.size,
        "arcstats: size",
        f"ZFS's cache of files, which it shrinks when memory is short: no leak{limit}",
        "pages",
        "cat /sys/module/zfs/parameters/zfs_arc_max # its limit in bytes, which may be lowered",
        "zfs",
    )


def _compressed(
    saved: Saved, meminfo: MemInfo | None, vmstat: Counters | None, page: int
) -> Iterator[KnownHolder]:
    """zram devices, and all pages of zsmalloc."""
    sizes = [zram_bytes(lines) for lines in saved.each("zram")]
    zram, by = sum(size for size in sizes if size), "mm_stat: mem_used_total"
    if not zram and "zramctl" in saved.kinds:
        zram, by = zramctl_bytes(saved.lines("zramctl")) or 0, "zramctl: TOTAL"
    if zram:
        yield KnownHolder(
            "zram",
            zram,
            by,
            "compressed pages of a swap or disk in memory: normal where zram is set up",
            "pages",
            "zramctl # which devices, and how well they compress",
            "zram",
        )
    values: Mapping[str, int] = vmstat.values if vmstat is not None else {}
    zswap = meminfo.get("Zswap") if meminfo is not None else None
    if zswap is None and "zswap" in saved.kinds:  # meminfo has it since 5.19
        zswap = named_numbers(saved.lines("zswap")).get("pool_total_size", 0)
        yield KnownHolder(
            "zswap pool",
            zswap,
            "zswap/pool_total_size",
            "compressed pages that would be in swap otherwise: normal where zswap is on",
            "pages",
            "grep -r . /sys/module/zswap/parameters # max_pool_percent is its limit",
        )
    zswap = zswap or 0
    rest = values.get("nr_zspages", 0) * page - zswap - zram
    if rest >= _LEAST:
        yield KnownHolder(
            "zsmalloc",
            rest,
            "vmstat: nr_zspages",
            "compressed pages of zram or zswap: normal where they are set up",
            "pages",
            "zramctl # which devices, and how well they compress",
            "zsmalloc",
        )


def _sockets(saved: Saved, page: int) -> Iterator[KnownHolder]:
    """Buffers of sockets are slab objects and fragments of pages: no part of their own."""
    size = socket_pages(saved.lines("sockstat")) * page if "sockstat" in saved.kinds else 0
    if size:
        yield KnownHolder(
            "sum of socket buffers",
            size,
            "sockstat: mem",
            "data that sits in sockets: does a process not read them, or is a peer slow?",
            "slab",
            "ss -tump | sort -k2 -rn | head # which sockets",
        )


def _dma_buf(saved: Saved) -> Iterator[KnownHolder]:
    size = dma_buf_bytes(saved.lines("dma_buf")) if "dma_buf" in saved.kinds else None
    if size:
        yield KnownHolder(
            "DMA buffers",
            size,
            "dma_buf/bufinfo",
            "buffers that devices and processes share (cameras, displays, GPUs): held by whoever "
            "has their files open",
            "pages",
            "cat /sys/kernel/debug/dma_buf/bufinfo # which device has them attached",
        )

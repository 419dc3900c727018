"""Who else says how much memory he has: balloons, the ZFS cache, zram, modules, cgroups.

Short texts of one purpose each. Sizes in bytes; None where the text does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAX = 1 << 14
_KIB, _MIB = 1 << 10, 1 << 20
_VMMEMCTL = re.compile(r"\s*current:\s+(\d{1,15})(?: pages.*|\s*)", re.ASCII)
_HYPER_V = re.compile(r"\s*(pages_ballooned|page_size)\s*: (\d{1,15})\s*", re.ASCII)
_TOOLBOX = re.compile(r"\s*(\d{1,9}) MB\s*", re.ASCII)
_STAT = re.compile(r"\s*guest\.mem\.ballooned = (\d{1,15})\s*", re.ASCII)
_ARC = re.compile(r"\s*(\w{1,64})\s+\d\s+(-?\d{1,20})\s*", re.ASCII)
_NUMBERS = re.compile(r"(?:\S{1,64}mm_stat:)?\s*(\d{1,20}(?:\s+\d{1,20}){6,9})\s*", re.ASCII)
_SIZED = re.compile(r"(\d{1,15}(?:[.,]\d{1,3})?)([BKMGT]?)", re.ASCII)
_POWERS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NAMED = re.compile(r"(?:\S{0,200}/)?(\w{1,64}):\s*(\d{1,20})\s*", re.ASCII)
_XEN = re.compile(r"\s*(Low-mem|High-mem) balloon:\s+(\d{1,15}) kB\s*", re.ASCII)
_MODULE = re.compile(r"\s*([\w-]{1,64})\s+(\d{1,12})\s+(-?\d{1,9})(?:\s+(\S.{0,1024}))?", re.ASCII)
_DMA_BUF = re.compile(r"\s*Total (\d{1,9}) objects, (\d{1,18}) bytes\s*", re.ASCII)
_COUNT = re.compile(r"\s*([a-z_]\w{0,63})\s+(\d{1,20})\s*", re.ASCII)
_SOCKETS = re.compile(r"\s*(?:TCP|UDP|UDPLITE|RAW|FRAG6?):.*\bmem(?:ory)? (\d{1,12})\b.*", re.ASCII)


@dataclass(frozen=True)
class ArcStats:
    """/proc/spl/kstat/zfs/arcstats."""

    size: int
    most: int | None
    """c_max: what it may grow to."""
    least: int | None


def balloon_pages(lines: Iterable[str]) -> int | None:
    """Pages of 4 KiB that vmmemctl (debugfs) says the balloon has now."""
    for line in lines:
        if match := _VMMEMCTL.fullmatch(line):
            return int(match[1])
    return None


def hyper_v_bytes(lines: Iterable[str]) -> int | None:
    """What /sys/kernel/debug/hv-balloon says (6.1+)."""
    found = {m[1]: int(m[2]) for line in lines if (m := _HYPER_V.fullmatch(line))}
    pages = found.get("pages_ballooned")
    return None if pages is None else pages * found.get("page_size", 4096)


def balloon_bytes(lines: Iterable[str]) -> int | None:
    """What `vmware-toolbox-cmd stat balloon`, or the raw resources text, says."""
    for line in lines:
        if match := _STAT.fullmatch(line):
            return int(match[1]) * _KIB
        if match := _TOOLBOX.fullmatch(line):
            return int(match[1]) * _MIB
    return None


def arcstats(lines: Iterable[str]) -> ArcStats | None:
    """Size and limits of the ZFS cache."""
    found: dict[str, int] = {}
    for line in lines:
        if (match := _ARC.fullmatch(line)) and len(found) < _MAX:
            found.setdefault(match[1], int(match[2]))
    size = found.get("size")
    return None if size is None else ArcStats(size, found.get("c_max"), found.get("c_min"))


def zram_bytes(lines: Iterable[str]) -> int | None:
    """mem_used_total of zram devices' mm_stat."""
    found = [int(match[1].split()[2]) for line in lines if (match := _NUMBERS.fullmatch(line))]
    return sum(found) if found else None


def zramctl_bytes(lines: Iterable[str]) -> int | None:
    """TOTAL of every device that zramctl lists: memory, the allocator's own included."""
    columns: list[str] = []
    found: list[int] = []
    for line in lines:
        words = line.split()
        if "TOTAL" in words and "NAME" in words:
            columns = words
        elif words and words[0].startswith("/dev/zram"):
            size = _SIZED.fullmatch(dict(zip(columns, words, strict=False)).get("TOTAL", ""))
            if size is not None:
                found.append(round(float(size[1].replace(",", ".")) * _POWERS[size[2]]))
    return sum(found) if found else None


def named_numbers(lines: Iterable[str]) -> dict[str, int]:
    """Files of one number each, as ``name:number`` (grep -r . FOLDER); the first of a name."""
    found: dict[str, int] = {}
    for line in lines:
        if (match := _NAMED.fullmatch(line)) and len(found) < _MAX:
            found.setdefault(match[1], int(match[2]))
    return found


def xen_bytes(lines: Iterable[str]) -> int | None:
    """What Xen's balloon has, by /sys/devices/system/xen_memory or /proc/xen/balloon."""
    kept = list(lines)
    found = [int(match[2]) for line in kept if (match := _XEN.fullmatch(line))]
    numbers = named_numbers(kept)
    found += [numbers[name] for name in ("low_kb", "high_kb") if name in numbers]
    return sum(found) * _KIB if found else None


def modules(lines: Iterable[str]) -> tuple[str, ...]:
    """Names in lsmod's or /proc/modules' output."""
    found = (_MODULE.match(line) for line in lines)
    return tuple(dict.fromkeys(m[1] for m in found if m))[:_MAX]


def dma_buf_bytes(lines: Iterable[str]) -> int | None:
    """Bytes of all buffers of /sys/kernel/debug/dma_buf/bufinfo."""
    for line in lines:
        if match := _DMA_BUF.fullmatch(line):
            return int(match[2])
    return None


def counts(lines: Iterable[str]) -> dict[str, int]:
    """A cgroup's memory.stat or cgroup.stat."""
    found: dict[str, int] = {}
    for line in lines:
        if (match := _COUNT.fullmatch(line)) and len(found) < _MAX:
            found.setdefault(match[1], int(match[2]))
    return found


# v2's names, and v1's with those below it (total_); what is in none is not the kernel's alone.
_CGROUP = (
    ("anon", "anonymous memory"),
    ("total_rss", "anonymous memory"),
    ("file", "file cache"),
    ("total_cache", "file cache"),
    ("slab_unreclaimable", "slab memory that cannot be reclaimed"),
    ("slab_reclaimable", "reclaimable slab memory"),
    ("kernel_stack", "kernel stacks"),
    ("pagetables", "page tables"),
    ("sec_pagetables", "secondary page tables"),
    ("percpu", "per-CPU memory"),
    ("sock", "socket buffers"),
    ("vmalloc", "vmalloc memory"),
    ("zswap", "zswap pool"),
)


def cgroup_parts(texts: Iterable[Iterable[str]]) -> tuple[tuple[str, int], ...]:
    """What the largest cgroup has of which several memory.stat tell, largest part first."""
    every = []
    for lines in texts:
        stat = counts(lines)
        if "total_rss" not in stat and "rss" in stat:  # v1 without hierarchy
            stat |= {"total_rss": stat["rss"], "total_cache": stat.get("cache", 0)}
        found = {says: stat[name] for name, says in _CGROUP if stat.get(name)}
        every.append(tuple(sorted(found.items(), key=lambda item: -item[1])))
    return max(every, key=lambda parts: sum(size for _, size in parts), default=())


def socket_pages(lines: Iterable[str]) -> int:
    """Pages that sockstat says protocols have."""
    found = (_SOCKETS.fullmatch(line) for line in lines)
    return sum(int(m[1]) for m in found if m)


def memory_cgroups(lines: Iterable[str]) -> int | None:
    """/proc/cgroups: how many memory cgroups the kernel keeps, dying ones included."""
    for line in lines:
        words = line.split()
        if words[:1] == ["memory"] and len(words) == 4 and words[2].isdigit():
            return int(words[2])
    return None

"""What the kernel prints when memory is short, or when asked by SysRq-m: `Mem-Info:`.

Shapes of mm/page_alloc.c and mm/show_mem.c, 2.6.9 to 6.18. Only totals are taken, which come in
pages; where the same number comes in kB, the two tell the size of a page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from crashext.procfs.alloctraces import AllocInfo, parse_allocinfo
from crashext.procfs.counters import MemInfo
from crashext.procfs.processes import Process
from crashext.procfs.slabinfo import SlabInfo
from crashext.procfs.slabtop import parse_unreclaimable

_KIB = 1024
_USUAL_PAGE = 4096
_PAGE_SIZES = tuple(1 << n for n in range(12, 17))
_MAX_TASKS = 1 << 16
_VALUE = re.compile(r"([A-Za-z_][\w-]{0,40}(?:\(\w{1,8}\))?):\s?(\d{1,15})(kB)?(?![\w.])", re.ASCII)
_NODE = re.compile(r"\s*(?:Node (\d{1,5})|(?:DMA32|DMA|Normal|HighMem|Movable) free:)", re.ASCII)
_ZONE = re.compile(r"\s*(?:Node \d{1,5} )?(?:DMA32|DMA|Normal|HighMem|Movable|Device)\b", re.ASCII)
_SAID = re.compile(
    r"\s*(\d{1,15}) (total pagecache pages|pages in swap cache|pages RAM|pages of RAM"
    r"|pages reserved|reserved pages|pages hwpoisoned|pages swap cached)\s*",
    re.ASCII,
)
_HUGE = re.compile(r".*hugepages_total=(\d{1,9}) .*hugepages_size=(\d{1,9})kB", re.ASCII)
_VICTIM = re.compile(r"(.{1,64}?) invoked oom-killer", re.ASCII)
_TASK_HEAD = re.compile(r"\s*\[\s*pid\s*\]\s+uid\s+tgid\s+total_vm\s+rss\b.*name\s*", re.ASCII)
_TASK = re.compile(r"\s*\[\s*(\d{1,10})\]\s+(\d{1,10}\s.*\S)\s*", re.ASCII)
_LIMIT = re.compile(r"\s*memory: usage (\d{1,15})kB, limit (\d{1,15})kB, failcnt \d+\s*", re.ASCII)
_OF_CGROUP = re.compile(r"\s*Memory cgroup stats(?: for .{0,1024}?)?:\s(.*\d[KM]B.*)", re.ASCII)
_IN_KIB = re.compile(r"(\w{1,40}):(\d{1,15})KB", re.ASCII)
_SWAP = re.compile(r"\s*(Free swap|Total swap)\s*=\s*(\d{1,15})kB\s*", re.ASCII)


@dataclass(frozen=True)
class OomReport:
    """One report. Sizes in bytes."""

    meminfo: MemInfo | None
    """The lines that meminfo would have, as far as they are told."""
    page_size: int | None
    slabs: SlabInfo | None
    """None where the report does not list them: it does where slabs are larger than all that
    processes and files have."""
    processes: tuple[Process, ...]
    tags: AllocInfo | None
    """``Memory allocations:`` (6.10+)."""
    invoked_by: str
    """"" where nobody ran out of memory: SysRq."""

    cgroup_limit: int | None = None
    """Where a memory cgroup ran into its limit, not the machine."""
    cgroup: tuple[str, ...] = ()
    """Its counters as lines of a memory.stat, where the report has them in one line (to 4.18)."""

    @property
    def damaged(self) -> int:
        return 0


def parse_oom(lines: Iterable[str]) -> OomReport:
    """Take what is known; a log has other lines in between."""
    kept = list(lines)
    pages, nodes, zones = _values(kept)
    size = _page_size(pages, Counter({**zones, **nodes}))  # before 4.8 zones alone tell kB
    page = size or _USUAL_PAGE
    slabs = parse_unreclaimable(kept, page)
    tags = parse_allocinfo(line for line in kept if "func:" in line)
    victim = next((m[1] for line in kept if (m := _VICTIM.match(line))), "")
    return OomReport(
        _meminfo(kept, pages, zones, page),
        size,
        slabs if slabs.caches else None,
        _tasks(kept, page),
        tags if tags.tags else None,
        victim.strip(),
        next((int(m[2]) * _KIB for line in kept if (m := _LIMIT.fullmatch(line))), None),
        _cgroup(kept),
    )


def _cgroup(lines: Iterable[str]) -> tuple[str, ...]:
    found = next((m[1] for line in lines if (m := _OF_CGROUP.fullmatch(line))), "")
    return tuple(f"{name} {int(number) * _KIB}" for name, number in _IN_KIB.findall(found))


def _values(lines: Iterable[str]) -> tuple[dict[str, int], Counter[str], Counter[str]]:
    """Totals in pages; sums of nodes in kB; sums of zones in kB."""
    pages: dict[str, int] = {}
    nodes: Counter[str] = Counter()
    zones: Counter[str] = Counter()
    where = ""
    for line in lines:
        if _ZONE.match(line):
            where = "zone"
        elif _NODE.match(line):
            where = "node"
        elif re.match(r"\s*(?:active_anon:|active:\d|Mem-|\d+ )", line, re.IGNORECASE):
            where = ""
        for name, number, unit in _VALUE.findall(line):
            if unit:
                (zones if where == "zone" else nodes)[name] += int(number)
            elif where == "":
                pages.setdefault(name.lower(), int(number))
    return pages, nodes, zones


def _page_size(pages: dict[str, int], kib: Counter[str]) -> int | None:
    """A node's kB against the total in pages, by most of the numbers that both say."""
    votes: Counter[int] = Counter()
    for name in ("active_anon", "inactive_anon", "active_file", "inactive_file", "shmem", "mapped"):
        if (number := pages.get(name, 0)) > 64 and kib[name]:
            size = kib[name] * _KIB
            votes[min(_PAGE_SIZES, key=lambda p: abs(size - number * p))] += 1
    return min(votes, key=lambda p: (-votes[p], p), default=None)


def _meminfo(
    lines: list[str], pages: dict[str, int], zones: Counter[str], page: int
) -> MemInfo | None:
    said: dict[str, int] = {}
    swap: dict[str, int] = {}
    huge: dict[tuple[str, int], int] = {}
    for line in lines:
        if match := _SAID.fullmatch(line):
            said.setdefault(match[2], int(match[1]))
        elif match := _SWAP.fullmatch(line):
            swap.setdefault(match[1], int(match[2]) * _KIB)
        elif match := _HUGE.match(line):
            node = line.split("hugepages_total")[0]
            huge.setdefault((node, int(match[2])), int(match[1]) * int(match[2]) * _KIB)
    if not pages:
        return None

    def total(*names: str) -> int | None:
        found = [pages[n] for n in names if n in pages]
        return sum(found) * page if found else None

    ram = said.get("pages RAM", said.get("pages of RAM"))
    reserved = said.get("pages reserved", said.get("reserved pages", 0))
    cached, swap_cache = said.get("total pagecache pages"), said.get("pages in swap cache", 0)
    shmem = total("shmem")
    anonymous = total("active_anon", "inactive_anon", "isolated_anon")
    if anonymous is not None and shmem is not None:
        anonymous = max(0, anonymous - shmem)  # shared memory is on the same lists
    if anonymous is None:
        anonymous = total("mapped-anon", "anon_pages")
    files = total("active_file", "inactive_file", "isolated_file")
    file_cache = (cached - swap_cache) * page if cached is not None else files
    sizes: dict[str, int | None] = {
        "MemTotal": (ram - reserved) * page if ram and ram > reserved else None,
        "MemFree": total("free"),
        "Cached": file_cache if file_cache is None else max(0, file_cache),
        "SwapCached": swap_cache * page,
        "AnonPages": anonymous,
        "Shmem": shmem,
        "Mapped": total("mapped", "mapped-file"),
        "Slab": total("slab_reclaimable", "slab_unreclaimable", "slab"),
        "SReclaimable": total("slab_reclaimable"),
        "SUnreclaim": total("slab_unreclaimable"),
        "PageTables": total("pagetables"),
        "SecPageTables": total("sec_pagetables"),
        "Bounce": total("bounce"),
        "PcpFree": total("free_pcp"),
        "KernelStack": zones["kernel_stack"] * _KIB or None,
        "Hugetlb": sum(huge.values()) if huge else None,
        "SwapTotal": swap.get("Total swap"),
        "SwapFree": swap.get("Free swap"),
    }
    # A report of 2.6.9 to 2.6.24 has Active and Inactive lists only.
    if sizes["Cached"] is None and "active" in pages:
        listed = (pages["active"] + pages.get("inactive", 0)) * page
        sizes["Cached"] = max(0, listed - (anonymous or 0))
    return MemInfo({name: size for name, size in sizes.items() if size is not None}, {})


def _tasks(lines: Iterable[str], page: int) -> tuple[Process, ...]:
    """Tasks state, largest first."""
    columns: list[str] = []
    found: dict[int, Process] = {}
    for line in lines:
        if _TASK_HEAD.fullmatch(line):
            columns = line.replace("[", " ").replace("]", " ").split()
        elif columns and (match := _TASK.fullmatch(line)) and len(found) < _MAX_TASKS:
            words = match[2].split(None, len(columns) - 2)
            row = dict(zip(columns[1:], words, strict=False))
            if len(words) < len(columns) - 1 or not row.get("rss", "").isdigit():
                continue
            tables = row.get("pgtables_bytes", "")
            anon, files, shmem = (
                int(row[n]) * page if row.get(n, "").isdigit() else None
                for n in ("rss_anon", "rss_file", "rss_shmem")
            )
            found[int(match[1])] = Process(
                int(match[1]),
                row["name"],
                int(row["rss"]) * page,
                anon,
                files,
                shmem,
                int(row["swapents"]) * page if row.get("swapents", "").isdigit() else None,
                page_tables=int(tables) if tables.isdigit() else None,
            )
    return tuple(sorted(found.values(), key=lambda p: (-p.rss, p.pid)))

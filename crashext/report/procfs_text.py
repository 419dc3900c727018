"""The overview of `leakscan --procfs` as text: where memory is, and who holds it."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..analysis.growth import CacheGrowth, Growth
from ..analysis.memsplit import MemorySplit
from ..analysis.procfs import ProcReport, Snapshot
from ..kernel.families import Family
from ..kernel.kmemleaktext import KmemleakReport
from ..kernel.pageownertext import PageOwner
from ..kernel.processtext import Process
from ..kernel.stacktext import Frame, passes_on
from .safe import safe

_FEW, _MANY = 8, 40
_FEW_FRAMES = 6
_NO_MEMORY = ("DirectMap", "Commit", "MemFree", "MemAvailable", "VmallocTotal", "VmallocChunk")
"""Lines of meminfo whose growth is nobody's memory."""
_DIM, _BOLD, _HEAD, _WARN = "dim", "bold", "bold cyan", "yellow"


def print_proc_report(report: ProcReport, console: Console, verbose: bool) -> None:
    """The answer to `leakscan --procfs DIR…`."""
    rows = _MANY if verbose else _FEW
    snapshot = report.snapshot
    _line(console, _headline(report), _BOLD)
    if report.split is not None:
        _split(console, report.split)
    if report.growth is not None:
        _growth(console, report.growth, rows)
    if report.families:
        _families(console, report, rows)
    if report.vmalloc:
        _vmalloc(console, report, rows)
    if snapshot.kmemleak is not None:
        _kmemleak(console, snapshot.kmemleak, rows)
    if snapshot.page_owner is not None:
        _page_owner(console, snapshot, snapshot.page_owner, rows)
    if snapshot.traces:
        _traces(console, snapshot, rows)
    if snapshot.allocinfo is not None:
        _allocinfo(console, snapshot, rows)
    if report.processes:
        _processes(console, report.processes, rows)
    _line(console, "What these files cannot say:", _HEAD)
    for limit in report.limits:
        _line(console, f"  - {safe(limit)}")
    for item in report.skipped:
        _line(console, f"skipped: {item.count:,} {safe(item.what)}; {safe(item.effect)}", _WARN)
    _footer(console, snapshot)


def _headline(report: ProcReport) -> str:
    split = report.split
    if split is None:
        return "how memory is split is not known: no usable meminfo"
    parts = [f"{size(split.total)} of memory: {size(split.sum('free'))} free"]
    parts += [f"{size(split.sum(g))} {g}" for g in ("user", "kernel")]
    parts.append(f"{size(split.unaccounted)} in no counter")
    return ", ".join(parts)


def _split(console: Console, split: MemorySplit) -> None:
    table = _table("left", "right", "right", "left")
    for part in split.parts:
        table.add_row(
            f"{part.group}: {part.name}" if part.group != "free" else "free",
            size(part.bytes),
            _percent(part.bytes, split.total),
            Text(safe(part.note), style=_DIM),
        )
    note = "counters overlap, or were read at different moments" if split.unaccounted < 0 else ""
    unaccounted = _percent(split.unaccounted, split.total)
    table.add_row("unaccounted", size(split.unaccounted), unaccounted, Text(note, style=_DIM))
    table.add_row("MemTotal", size(split.total), "", "")
    _show(console, table)


def _growth(console: Console, growth: Growth, rows: int) -> None:
    first, last = safe(growth.paths[0]), safe(growth.paths[-1])
    between = (
        f"{_duration(growth.seconds)} by {growth.clock}"
        if growth.seconds is not None
        else "no clock tells the time between"
    )
    steps = f" in {len(growth.paths) - 1} steps" if len(growth.paths) > 2 else ""
    _line(console, f"Growth from {first} to {last}{steps} ({between}):", _HEAD)
    if growth.backwards:
        _line(console, "    by their dates the folders are not in time order", _WARN)
    table = _table("left", "right", "right", "right", "right", "left")
    table.add_row("cache", "objects", "slabs", "bytes", "an hour", "", style=_DIM)
    grown = [c for c in growth.caches if c.bytes > 0 or c.active_objs > 0]
    for cache in grown[:rows]:
        table.add_row(
            safe(cache.name),
            f"{cache.active_objs:+,}",
            f"{cache.slabs:+,}",
            _signed(cache.bytes),
            _rate(growth, cache.bytes),
            Text(_shape(cache), style=_DIM),
        )
    if grown:
        _show(console, table)
    for title, lines in (
        (
            "meminfo",
            [
                (safe(m.name), m.bytes)
                for m in growth.meminfo
                if m.bytes > 0 and not m.name.startswith(_NO_MEMORY)
            ],
        ),
        (
            "vmalloc",
            [
                (f"{safe(_called(c.function, c.module))}, {c.areas:+,} areas", c.bytes)
                for c in growth.vmalloc
                if c.bytes > 0
            ],
        ),
    ):
        table = _table("left", "right", "right")
        for name, difference in lines[:rows]:
            table.add_row(f"{title}: {name}", _signed(difference), _rate(growth, difference))
        if lines:
            _show(console, table)
    shrunk = sum(c.bytes for c in growth.caches if c.bytes < 0)
    if shrunk:
        _line(console, f"    other caches shrank by {size(-shrunk)}", _DIM)


def _shape(cache: CacheGrowth) -> str:
    if cache.fragmenting:
        return (
            f"fragmentation: use fell from {100 * cache.use[0]:.0f} % to {100 * cache.use[1]:.0f} %"
        )
    return "at every step" if len(cache.steps) > 2 and cache.steady else ""


def _families(console: Console, report: ProcReport, rows: int) -> None:
    slabs, page = report.snapshot.slabs, report.snapshot.page_size
    total = sum(f.pages for f in report.families) * page
    _line(console, f"Slab caches, {len(report.families):,} families, {size(total)}:", _HEAD)
    table = _table("left", "right", "right", "right", "left")
    table.add_row("cache", "bytes", "objects", "in use", "", style=_DIM)
    for family in report.families[:rows]:
        table.add_row(
            safe(family.name),
            size(family.pages * page),
            f"{family.active_objs:,}",
            _percent(family.active_objs, family.num_objs) if family.num_objs else "",
            Text(safe(_members(family, page)), style=_DIM),
        )
    _show(console, table)
    counted = report.snapshot.meminfo.get("Slab") if report.snapshot.meminfo else None
    if slabs is not None and counted is not None and counted > total:
        what = "kmalloc() of more than a cache's largest size, and what changed meanwhile"
        _line(console, f"    {size(counted - total)} of Slab is in no cache: {what}", _DIM)


def _members(family: Family, page: int) -> str:
    """Which caches a sum is made of, where it is more than one that holds something."""
    held = [m for m in family.members if m.pages]
    if len(held) < 2:
        return held[0].name if held and held[0].name != family.name else ""
    more = f" and {len(held) - 4} more" if len(held) > 4 else ""
    return ", ".join(f"{m.name} {size(m.pages * page)}" for m in held[:4]) + more


def _vmalloc(console: Console, report: ProcReport, rows: int) -> None:
    page = report.snapshot.page_size
    total = sum(c.pages for c in report.vmalloc)
    _line(console, f"vmalloc, {total:,} pages, {size(total * page)}:", _HEAD)
    table = _table("left", "right", "right", "right", "right")
    table.add_row("caller", "areas", "pages", "bytes", "share", style=_DIM)
    for caller in report.vmalloc[:rows]:
        stacks = " (tasks' stacks)" if caller.example.is_stack else ""
        table.add_row(
            safe(_called(caller.example.caller, caller.module)) + stacks,
            f"{caller.areas:,}",
            f"{caller.pages:,}",
            size(caller.pages * page),
            _percent(caller.pages, total),
        )
    _show(console, table)


def _kmemleak(console: Console, found: KmemleakReport, rows: int) -> None:
    if not found.objects:
        _line(console, "kmemleak: its file reports nothing", _HEAD)
        return
    objects = _plural(found.objects, "unreferenced object")
    groups = _plural(len(found.groups), "call stack")
    _line(console, f"kmemleak: {objects}, {size(found.size)}, {groups}:", _HEAD)
    for group in found.groups[:rows]:
        one = str(group.smallest) if group.smallest == group.largest else "various"
        who = f", {safe(group.comm)} (pid {group.pid})" if group.pid is not None else ""
        age = f", {_duration(group.age[0])} to {_duration(group.age[1])} old" if group.age else ""
        _line(
            console,
            f"    {group.count:,} of {one} bytes, {size(group.size)}: "
            f"{_named(group.origin, group.module)}{who}{age}; such as {group.example:x}",
        )
        _stack(console, group.frames)
    _rest(console, len(found.groups) - rows, "call stack")


def _page_owner(console: Console, snapshot: Snapshot, found: PageOwner, rows: int) -> None:
    page = snapshot.page_size
    mine = [g for g in found.groups if g.kind == "kernel"]
    pages = sum(g.pages for g in mine)
    _line(
        console,
        f"page_owner: {found.pages:,} pages; {pages:,} of them, {size(pages * page)}, are neither "
        "slab nor vmalloc nor movable:",
        _HEAD,
    )
    for group in mine[:rows]:
        orders = ", ".join(f"{n:,} of order {o}" for o, n in sorted(group.orders.items()))
        who = f", {safe(group.comm)} (pid {group.pid})" if group.pid is not None else ""
        _line(
            console,
            f"    {group.pages:,} pages, {size(group.pages * page)}"
            f"{f' ({orders})' if orders else ''}: {_named(group.origin, group.module)}{who}",
        )
        _stack(console, group.frames)
    _rest(console, len(mine) - rows, "call stack")


def _traces(console: Console, snapshot: Snapshot, rows: int) -> None:
    _line(console, "alloc_traces, who allocated the objects of a cache:", _HEAD)
    sites = sorted(
        ((site.count, cache, site) for cache, t in snapshot.traces.items() for site in t.sites),
        key=lambda item: (-item[0], item[1]),
    )
    table = _table("left", "right", "left", "left")
    for count, cache, site in sites[:rows]:
        age = f"{site.age[0]:,} to {site.age[2]:,} jiffies old" if site.age else ""
        table.add_row(
            safe(cache), f"{count:,}", safe(str(site.site or "site not known")), Text(age, _DIM)
        )
    _show(console, table)
    _rest(console, len(sites) - rows, "site")


def _allocinfo(console: Console, snapshot: Snapshot, rows: int) -> None:
    tags = snapshot.allocinfo.tags if snapshot.allocinfo else ()
    _line(console, "allocinfo, lines of source that hold memory:", _HEAD)
    table = _table("right", "right", "left")
    for tag in tags[:rows]:
        module = f" [{tag.module}]" if tag.module else ""
        doubt = "" if tag.accurate else " (not accurate)"
        table.add_row(
            size(tag.bytes),
            _plural(tag.calls, "call"),
            safe(f"{tag.function}{module} {tag.file}:{tag.line}{doubt}"),
        )
    _show(console, table)
    _rest(console, len(tags) - rows, "line")


def _processes(console: Console, processes: tuple[Process, ...], rows: int) -> None:
    _line(console, f"Processes, {len(processes):,}, largest first:", _HEAD)
    table = _table("right", "left", "right", "right", "right", "right", "right", "right")
    table.add_row("pid", "", "resident", "anon", "file", "shmem", "swap", "page tables", style=_DIM)
    shown = [p for p in processes if p.rss or p.swap]
    for p in shown[:rows]:
        sizes = (p.rss, p.rss_anon, p.rss_file, p.rss_shmem, p.swap, p.page_tables)
        table.add_row(str(p.pid), safe(p.comm[:40]), *("" if s is None else size(s) for s in sizes))
    _show(console, table)


def _footer(console: Console, snapshot: Snapshot) -> None:
    state = "running machine" if snapshot.live else "saved files"
    guess = "" if snapshot.page_size_known else " (a guess)"
    page = f"pages of {snapshot.page_size:,} bytes{guess}"
    found = ", ".join(snapshot.files)
    _line(console, f"{state} {safe(snapshot.path)}; {page}; read: {found}", _DIM)


def _stack(console: Console, frames: tuple[Frame, ...]) -> None:
    """The frames that say something: the allocator's own are left out."""
    start = next((i for i, f in enumerate(frames) if not passes_on(f.symbol)), 0)
    shown = frames[start : start + _FEW_FRAMES]
    more = " <- ..." if len(frames) > start + _FEW_FRAMES else ""
    text = " <- ".join(safe(_called(f.symbol, f.module)) for f in shown)
    if text:
        _line(console, f"        {text}{more}", _DIM)


def _named(origin: Frame | None, module: str) -> str:
    if origin is None:
        return safe(f"call stack not shown{f', [{module}]' if module else ''}")
    via = f" for [{module}]" if module and origin.module != module else ""
    return safe(f"{origin}{via}")


def _called(function: str, module: str) -> str:
    return f"{function or 'nobody noted'}{f' [{module}]' if module else ''}"


def _rest(console: Console, hidden: int, noun: str) -> None:
    if hidden > 0:
        _line(console, f"    {_plural(hidden, f'more {noun}')} (-v shows more)", _DIM)


def _rate(growth: Growth, difference: int) -> str:
    rate = growth.per_hour(difference)
    return "" if rate is None else _signed(round(rate))


def _table(*columns: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for side in columns:
        table.add_column(justify="right" if side == "right" else "left", overflow="fold")
    return table


def _show(console: Console, table: Table) -> None:
    console.print(Padding(table, (0, 0, 0, 4)))


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style))


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _signed(n: int) -> str:
    return f"+{size(n)}" if n >= 0 else size(n)


def size(n: int) -> str:
    """Bytes for a reader; negative ones with their sign."""
    value = float(abs(n))
    sign = "-" if n < 0 else ""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{sign}{abs(n):,} bytes" if unit == "bytes" else f"{sign}{value:,.1f} {unit}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"

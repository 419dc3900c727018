"""Parts of the overview of saved text: caches, vmalloc, and what allocators' own lists say."""

from __future__ import annotations

from rich.console import Console

from crashext.analysis.proc import ProcReport, Snapshot, tells_processes
from crashext.kernel.slab.families import Family
from crashext.procfs.kmemleak import KmemleakReport
from crashext.procfs.pageowner import PageOwner
from crashext.procfs.stacks import PrintedFrame, wanted_at
from crashext.report.lines import line
from crashext.report.memory_text import process_line, split_lines
from crashext.report.safe import safe
from crashext.report.tables import Table, show_table
from crashext.wording import called, duration, percent_of, plural, size_text, some_of

_FEW, _MANY = 8, 40
_FEW_FRAMES = 6
_DIM, _HEAD = "dim", "bold cyan"


def print_memory(report: ProcReport, console: Console, verbose: bool) -> None:
    """Where memory is: by the counters, by caller of vmalloc, by process."""
    rows = _MANY if verbose else _FEW
    line(console, "Where memory is", _HEAD)
    line(console, f"  {proc_answer(report)}")
    if report.split is not None:
        for text in split_lines(report.split):
            line(console, f"  {text}")
    if report.vmalloc:
        _vmalloc(console, report, rows)
    if report.processes:
        shown = [p for p in report.processes if p.rss or p.swap][:rows]
        line(console, f"Processes, {len(report.processes):,}, largest first:", _HEAD)
        for process in shown:
            line(console, process_line(process))


def print_pages(report: ProcReport, console: Console, verbose: bool) -> None:
    """Who has pages, by page_owner and allocinfo."""
    snapshot, rows = report.snapshot, _MANY if verbose else _FEW
    if snapshot.page_owner is not None:
        _page_owner(console, snapshot, snapshot.page_owner, rows)
    if snapshot.allocinfo is not None:
        _allocinfo(console, snapshot, rows)


def print_slabs(report: ProcReport, console: Console, verbose: bool) -> None:
    """Caches, who allocated their objects, and which of those nobody holds."""
    snapshot, rows = report.snapshot, _MANY if verbose else _FEW
    if report.families:
        _families(console, report, rows)
    if snapshot.kmemleak is not None:
        _kmemleak(console, snapshot.kmemleak, rows)
    if snapshot.traces:
        _traces(console, snapshot, rows)


def proc_answer(report: ProcReport) -> str:
    """How memory is split, in one line."""
    split = report.split
    if split is None:
        return "how memory is split is not known: no usable meminfo"
    parts = [f"{size_text(split.total)} of memory: {size_text(split.sum('free'))} free"]
    user, meminfo = split.sum("user"), report.snapshot.meminfo
    told = meminfo is None or tells_processes(meminfo)
    parts.append(f"{size_text(user)} user" if user or told else "user memory not told")
    kernel = split.sum("kernel")
    parts.append(f"{size_text(kernel)} kernel" if kernel or told else "kernel memory not told")
    among = "" if told else " (what processes have is among it)"
    parts.append(f"{size_text(split.unaccounted)} in no counter{among}")
    return ", ".join(parts)


def _families(console: Console, report: ProcReport, rows: int) -> None:
    slabs, page = report.snapshot.slabs, report.snapshot.page_size
    total = sum(f.pages for f in report.families) * page
    line(console, f"Slab caches, {len(report.families):,} families, {size_text(total)}:", _HEAD)
    table = Table("lrrrt")
    table.heads("cache", "bytes", "objects", "in use", "")
    for family in report.families[:rows]:
        table.row(
            safe(family.name),
            size_text(family.pages * page),
            f"{family.active_objs:,}" if slabs is None or slabs.counts_objects else "",
            percent_of(family.active_objs, family.num_objs) if family.num_objs else "",
            safe(_members(family, page)),
        )
    show_table(console, table)
    counted = report.snapshot.meminfo.get("Slab") if report.snapshot.meminfo else None
    if slabs is not None and counted is not None and counted > total:
        line(console, f"    {size_text(counted - total)} of Slab is {_where(report)}", _DIM)


def _where(report: ProcReport) -> str:
    """What is in no cache that is listed: not the same where a list is not whole."""
    slabs, uncounted = report.snapshot.slabs, report.snapshot.uncounted
    if slabs is None or slabs.whole:
        return (
            "in no cache: kmalloc() of more than a cache's largest size, and what changed meanwhile"
        )
    names = some_of([safe(name) for name in uncounted], 3)
    more = f", or could not count: {names}" if uncounted else ""
    return f"in caches that this text does not list{more}"


def _members(family: Family, page: int) -> str:
    """Which caches a sum is made of, where it is more than one that holds something."""
    held = [m for m in family.members if m.pages]
    if len(held) < 2:
        return held[0].name if held and held[0].name != family.name else ""
    return some_of([f"{m.name} {size_text(m.pages * page)}" for m in held], 4)


def _vmalloc(console: Console, report: ProcReport, rows: int) -> None:
    page = report.snapshot.page_size
    total = sum(c.pages for c in report.vmalloc)
    line(console, f"vmalloc, {plural(total, 'page')}, {size_text(total * page)}:", _HEAD)
    table = Table("lrrrr")
    table.heads("caller", "areas", "pages", "bytes", "share")
    for caller in report.vmalloc[:rows]:
        stacks = " (tasks' stacks)" if caller.example.is_stack else ""
        table.row(
            safe(called(caller.example.caller, caller.module)) + stacks,
            f"{caller.areas:,}",
            f"{caller.pages:,}",
            size_text(caller.pages * page),
            percent_of(caller.pages, total),
        )
    show_table(console, table)


def _kmemleak(console: Console, found: KmemleakReport, rows: int) -> None:
    if not found.objects:
        line(console, "kmemleak: its file reports nothing", _HEAD)
        return
    objects = plural(found.objects, "unreferenced object")
    groups = plural(len(found.groups), "call stack")
    line(console, f"kmemleak: {objects}, {size_text(found.size)}, {groups}:", _HEAD)
    for group in found.groups[:rows]:
        one = str(group.smallest) if group.smallest == group.largest else "various"
        who = f", {safe(group.comm)} (pid {group.pid})" if group.pid is not None else ""
        age = f", {duration(group.age[0])} to {duration(group.age[1])} old" if group.age else ""
        line(
            console,
            f"    {group.count:,} of {one} bytes, {size_text(group.size)}: "
            f"{_named(group.origin, group.module)}{who}{age}; such as {group.example:x}",
        )
        _stack(console, group.frames)
    _rest(console, len(found.groups) - rows, "call stack")


def _page_owner(console: Console, snapshot: Snapshot, found: PageOwner, rows: int) -> None:
    page = snapshot.page_size
    mine = [g for g in found.groups if g.kind == "kernel"]
    pages = sum(g.pages for g in mine)
    line(
        console,
        f"page_owner: {plural(found.pages, 'page')}; {pages:,} of them, {size_text(pages * page)}, "
        "are neither slab nor vmalloc nor movable:",
        _HEAD,
    )
    for group in mine[:rows]:
        orders = ", ".join(f"{n:,} of order {o}" for o, n in sorted(group.orders.items()))
        who = f", {safe(group.comm)} (pid {group.pid})" if group.pid is not None else ""
        line(
            console,
            f"    {plural(group.pages, 'page')}, {size_text(group.pages * page)}"
            f"{f' ({orders})' if orders else ''}: {_named(group.origin, group.module)}{who}",
        )
        _stack(console, group.frames)
    _rest(console, len(mine) - rows, "call stack")


def _traces(console: Console, snapshot: Snapshot, rows: int) -> None:
    line(console, "alloc_traces, who allocated the objects of a cache:", _HEAD)
    sites = sorted(
        ((site.count, cache, site) for cache, t in snapshot.traces.items() for site in t.sites),
        key=lambda item: (-item[0], item[1]),
    )
    table = Table("lrt")
    for count, cache, site in sites[:rows]:
        age = f", {site.age[0]:,} to {site.age[2]:,} jiffies old" if site.age else ""
        table.row(safe(cache), f"{count:,}", safe(f"{site.site or 'site not known'}{age}"))
    show_table(console, table)
    _rest(console, len(sites) - rows, "site")


def _allocinfo(console: Console, snapshot: Snapshot, rows: int) -> None:
    tags = snapshot.allocinfo.tags if snapshot.allocinfo else ()
    line(console, "allocinfo, lines of source that hold memory:", _HEAD)
    table = Table("rrt")
    for tag in tags[:rows]:
        module = f" [{tag.module}]" if tag.module else ""
        doubt = "" if tag.accurate else " (not accurate)"
        table.row(
            size_text(tag.bytes),
            plural(tag.calls, "call"),
            safe(f"{tag.function}{module} {tag.file}:{tag.line}{doubt}"),
        )
    show_table(console, table)
    _rest(console, len(tags) - rows, "line")


def _stack(console: Console, frames: tuple[PrintedFrame, ...]) -> None:
    """The frames that say something: the allocator's own are left out."""
    start = wanted_at(frames) or 0
    shown = frames[start : start + _FEW_FRAMES]
    more = " <- ..." if len(frames) > start + _FEW_FRAMES else ""
    text = " <- ".join(safe(called(f.symbol, f.module)) for f in shown)
    if text:
        line(console, f"        {text}{more}", _DIM)


def _named(origin: PrintedFrame | None, module: str) -> str:
    if origin is None:
        return safe(f"call stack not shown{f', [{module}]' if module else ''}")
    via = f" for [{module}]" if module and origin.module != module else ""
    return safe(f"{origin}{via}")


def _rest(console: Console, hidden: int, noun: str) -> None:
    if hidden > 0:
        line(console, f"    {plural(hidden, f'more {noun}')} (-v shows more)", _DIM)

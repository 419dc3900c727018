"""A trace's table as text. The same trace gives the same table whichever tool printed it.

What only some tools print, the modules of the call sites, stands in the last line, with the
file's name.
"""

from __future__ import annotations

from rich.console import Console

from crashext.analysis.memory.growth import RATE_FROM
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.report.skipped_text import skipped_text
from crashext.report.tables import Table, show_table
from crashext.trace.summary import Cache, Site, TraceSummary
from crashext.wording import difference_text, part_of, plural, size_text

_FEW_SITES, _MANY_SITES = 20, 200
_FEW_CACHES, _MANY_CACHES = 10, 100
_FEW_OTHERS, _MANY_OTHERS = 5, 50
_MOST_MODULES = 20
_DIM, _BOLD, _HEAD, _WARN, _MARK = "dim", "bold", "bold cyan", "yellow", "bold red"


def print_trace(trace: TraceSummary, console: Console, verbose: bool) -> None:
    """The answer to `leakscan --trace FILE`."""
    line(console, trace_answer(trace), _BOLD)
    if trace.hashed:
        line(
            console,
            "the pointers are hashed: they pair, but no object can be found by them in a dump; "
            "for real ones use an own tracing instance with options/hash-ptr 0 (Linux 5.12 and "
            "newer), trace-cmd or perf, which record them",
            _WARN,
        )
    marked = any(site.marked is not None for site in trace.sites)
    _sites(console, trace.sites, marked, _MANY_SITES if verbose else _FEW_SITES)
    few = _MANY_OTHERS if verbose else _FEW_OTHERS
    if any(site.outstanding for site in trace.pages):
        line(console, "Pages, the slab allocator's own included:", _HEAD)
        _sites(console, trace.pages, False, few)
    _caches(console, trace, verbose)
    _tasks(console, trace, few)
    if verbose and trace.has_stacks:
        _stacks(console, trace)
    for item in trace.skipped:
        line(console, skipped_text(item), _WARN)
    if trace.interrupted:
        line(console, "interrupted: this is what was known so far", _WARN)
    for remark in trace.remarks:
        line(console, safe(remark), _DIM)
    line(console, f"trace {safe(trace.source)}{_modules(trace)}", _DIM)


def trace_answer(trace: TraceSummary) -> str:
    """The answer in one line."""
    held = len(trace.outstanding)
    said = (
        f"{plural(trace.allocs, 'allocation')} and {plural(trace.frees, 'free')} in "
        f"{trace.seconds:,.3f} s; {plural(held, 'object')} outstanding, "
        f"{size_text(int(trace.outstanding.size.sum()))}"
    )
    if not held:
        return said
    first = trace.sites[0]
    if first.marked:
        return f"{said}; leaking function: {safe(first.function)}"
    equal = [s for s in trace.sites if s.outstanding == first.outstanding]
    if len(equal) > 3:
        return f"{said}; {len(equal)} places have {first.outstanding:,} each"
    names = ", ".join(safe(s.function) for s in equal)
    each = " each" if len(equal) > 1 else ""
    return f"{said}; most: {names} ({first.outstanding:,}{each})"


def _sites(console: Console, sites: tuple[Site, ...], marked: bool, limit: int) -> None:
    held = [site for site in sites if site.outstanding]
    if not held:
        return
    table = Table("rrrrrt", indent=0)
    table.heads("outstanding", "bytes", "allocs", "frees", "marked", "function", style=_HEAD)
    for site in held[:limit]:
        numbers = (site.outstanding, site.bytes, site.allocs, site.frees)
        told = "" if not marked else "-" if site.marked is None else f"{site.marked:,}"
        style = _MARK if site.marked else ""
        table.row(*(f"{n:,}" for n in numbers), told, safe(site.function), style=style)
    show_table(console, table)
    rest = held[limit:]
    if rest:
        objects = sum(site.outstanding for site in rest)
        line(console, f"  {plural(len(rest), 'more place')} with {objects:,} outstanding")


def _caches(console: Console, trace: TraceSummary, verbose: bool) -> None:
    grown = [c for c in trace.caches if c.outstanding or verbose]
    limit = _MANY_CACHES if verbose else _FEW_CACHES
    if not grown:
        return
    line(console, "Caches, or sizes where the trace names no cache:", _HEAD)
    for cache in grown[:limit]:
        line(
            console,
            f"  {safe(cache.name)}: alloc {cache.allocs} free {cache.frees}, "
            f"{size_text(cache.bytes)} outstanding, {_rate(cache, trace.seconds)}",
        )
    if grown[limit:]:
        line(console, f"  {plural(len(grown) - limit, 'more cache')} (-v shows)")


def _rate(cache: Cache, seconds: float) -> str:
    rate = hourly(cache, seconds)
    grew = sum(1 for n in cache.growth if n > 0)
    return (
        f"{rate} an hour; " * bool(rate) + f"grew in {part_of(grew, len(cache.growth), 'period')}"
    )


def hourly(cache: Cache, seconds: float) -> str:
    """How fast it grew; "" where a trace of so many seconds does not tell."""
    return difference_text(round(cache.per_hour)) if seconds >= RATE_FROM else ""


def _tasks(console: Console, trace: TraceSummary, limit: int) -> None:
    if not trace.by_task:
        return
    shown = [
        f"{safe(trace.tasks[h.index].comm)}-{trace.tasks[h.index].pid} {h.outstanding:,}"
        for h in trace.by_task[:limit]
    ]
    rest = trace.by_task[limit:]
    if rest:
        shown.append(f"{len(rest):,} more {sum(h.outstanding for h in rest):,}")
    line(console, f"Allocated by: {', '.join(shown)}")


def _stacks(console: Console, trace: TraceSummary) -> None:
    line(console, "Stacks of the outstanding objects:", _HEAD)
    for held in trace.by_stack[:_FEW_OTHERS]:
        frames = trace.stacks[held.index]
        way = " < ".join(safe(frame) for frame in frames) if frames else "(none recorded)"
        line(console, f"  {held.outstanding:,}: {way}")


def _modules(trace: TraceSummary) -> str:
    named = {
        safe(f"{site.function} [{site.module}]")
        for site in trace.sites[:_FEW_SITES]
        if site.outstanding and site.module
    }
    if not named:
        return ""
    some = sorted(named)[:_MOST_MODULES]
    return f"; in modules: {', '.join(some)}"

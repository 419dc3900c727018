"""A trace joined with memory, as text: who allocated what is alike to the leaked objects.

The same trace and memory give the same text whichever tool printed the trace; only the last line
names the file.
"""

from __future__ import annotations

from rich.console import Console

from crashext.analysis.results.estimate import count_text
from crashext.analysis.results.joined import JoinedTrace, MarkedCache, MarkedSite
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.report.tables import Table, show_table
from crashext.wording import plural, some_of

_FEW_SITES, _MANY_SITES = 10, 200
_CLEARLY = 2
_DIM, _BOLD, _HEAD, _WARN, _MARK = "dim", "bold", "bold cyan", "yellow", "bold red"


def print_joined(trace: JoinedTrace, console: Console, verbose: bool) -> None:
    """The trace's part of the answer to `leakscan CACHE… --trace FILE`."""
    for cache in trace.caches:
        _cache(console, cache, verbose)
    for note in trace.notes:
        line(console, safe(note), _WARN)
    for remark in trace.remarks:
        line(console, safe(remark), _DIM)
    line(console, joined_rest(trace), _DIM)


def joined_answer(cache: MarkedCache) -> str:
    """What the trace says of a cache, in one line."""
    if not cache.outstanding:
        return f"{safe(cache.cache)}: no outstanding object of the trace is in it"
    first = cache.sites[0]
    if _certain(cache):
        return (
            f"leaking function: {_place(first)}: {first.marked:,} of its "
            f"{first.outstanding:,} outstanding {safe(cache.cache)} objects are like {_why(cache)}"
        )
    if first.marked:
        alike = ", ".join(f"{_place(s)} ({s.marked:,})" for s in cache.sites[:3] if s.marked)
        return (
            f"{safe(cache.cache)}: likeness alone does not tell unreachable from held objects: "
            f"{alike} have most of what is alike to a large part of the cache"
        )
    return (
        f"{safe(cache.cache)}: none of {plural(cache.outstanding, 'outstanding object')} is "
        f"like {_why(cache)}"
    )


def _cache(console: Console, cache: MarkedCache, verbose: bool) -> None:
    line(console, joined_answer(cache), _BOLD)
    if not cache.outstanding:
        return
    first, named = cache.sites[0], _certain(cache)
    _sites(console, cache, _MANY_SITES if verbose else _FEW_SITES)
    leaked = _guilty(cache)
    if named and leaked is not None:
        group = next(g for g in cache.groups if g.number == leaked)
        line(
            console,
            f"cache: {safe(cache.cache)}   object: {group.exemplar:x} (group {group.number})   "
            f"similar objects: {count_text(group.objects)}",
        )
        line(console, f"leaking function: {_place(first)}", _MARK)
    for text in _outcomes(cache):
        line(console, f"  {text}")


def _certain(cache: MarkedCache) -> bool:
    """Whether the first site can be called the leak: likeness alone must set it well apart."""
    first = cache.sites[0].marked
    second = cache.sites[1].marked if len(cache.sites) > 1 else 0
    return bool(first) and (cache.by_reach or first > _CLEARLY * second)


def _why(cache: MarkedCache) -> str:
    if cache.by_reach:
        return "objects that nothing in use points at"
    return "a large part of the cache (likeness alone)"


def _guilty(cache: MarkedCache) -> int | None:
    """The group that most marks of the first site belong to."""
    groups = cache.sites[0].groups
    return groups[0][0] if groups else None


def _place(site: MarkedSite) -> str:
    return safe(site.function) + (f" [{safe(site.module)}]" if site.module else "")


def _sites(console: Console, cache: MarkedCache, limit: int) -> None:
    table = Table("rrrrt", indent=0)
    table.heads("count", "marked", "reachable", "allocs", "function", style=_HEAD)
    for site in cache.sites[:limit]:
        table.row(
            f"{site.outstanding:,}",
            f"{site.marked:,}",
            f"{site.reachable:,}" if cache.judged else "-",
            f"{site.allocs:,}",
            _place(site) + _groups(site),
            style=_MARK if site.marked else "",
        )
    show_table(console, table)
    rest = cache.sites[limit:]
    if rest:
        objects, marked = sum(s.outstanding for s in rest), sum(s.marked for s in rest)
        line(
            console,
            f"  {plural(len(rest), 'more place')} (-v shows): {objects:,} outstanding, "
            f"{marked:,} marked",
        )


def _groups(site: MarkedSite) -> str:
    if not site.groups:
        return ""
    return "  like " + ", ".join(f"group {n} ({times:,})" for n, times in site.groups[:3])


def _outcomes(cache: MarkedCache) -> list[str]:
    lines = []
    parts = [f"{cache.compared:,} compared"]
    if cache.gone:
        parts.append(f"{cache.gone:,} freed since, or moved on")
    if cache.unreadable:
        parts.append(f"{cache.unreadable:,} not readable")
    if cache.not_compared:
        parts.append(f"{cache.not_compared:,} not looked at")
    lines.append(f"{plural(cache.outstanding, 'outstanding object')}: {', '.join(parts)}")
    if not cache.by_reach:
        lines.append(
            "marked by likeness alone: innocents that are alike are marked too; --refs tells "
            "them apart by who points at them"
        )
    innocent = [g for g in cache.groups if not g.suspect and g.alike]
    if cache.by_reach and innocent:
        names = some_of([f"group {g.number} ({g.alike:,})" for g in innocent], 4)
        lines.append(f"not marked, of groups that are in use: {names}")
    return lines


def joined_rest(trace: JoinedTrace) -> str:
    """What became of the trace's other objects."""
    parts = [f"{trace.outstanding:,} outstanding in {trace.seconds:,.3f} s"]
    if trace.elsewhere:
        parts.append(f"{trace.elsewhere:,} of them in other caches")
    if trace.moved:
        parts.append(f"{trace.moved:,} where there is no slab of their size any more")
    return f"trace {safe(trace.source)}: {', '.join(parts)}"

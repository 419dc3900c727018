"""The verdict over a whole machine as text: what is wrong, why, what not, what next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from crashext.analysis.overview import Overview
from crashext.analysis.results.estimate import count_text
from crashext.analysis.verdict.facts import CacheFact, Facts
from crashext.analysis.verdict.verdict import Verdict
from crashext.kernel.slab.families import bucket_owners, family
from crashext.report.asking import Asking, print_step
from crashext.report.growth_text import print_growth
from crashext.report.memory_text import memory_lines
from crashext.report.reach_text import nameless, reachability_lines
from crashext.report.safe import safe
from crashext.report.text import footer, line
from crashext.wording import called, percent, plural, size_text

_FEW_CACHES, _MANY_CACHES = 5, 20
_FEW_MEMBERS = 3
_NAME = 24


def print_overview(
    overview: Overview,
    facts: Facts,
    verdicts: tuple[Verdict, ...],
    console: Console,
    verbose: bool,
    asking: Asking,
) -> None:
    """The answer to `leakscan` with no argument: the first line is the worst verdict.

    `facts` are the overview's own, with growth if it was asked for.
    """
    print_verdicts(verdicts, console, asking)
    if facts.growth is not None:
        print_growth(facts.growth, console, verbose)
    if overview.accounting is not None:
        line(console, "Where memory is", "bold cyan")
        for text in memory_lines(overview.accounting, bars=console.is_terminal):
            line(console, f"  {text}")
    print_page_holders(facts, console, verbose)
    print_caches(facts, console, verbose)
    for text in reachability_lines(facts.reachability):
        line(console, safe(text), "dim")
    footer(console, overview.kernel, overview.skipped, overview.interrupted, 0)


def print_verdicts(verdicts: tuple[Verdict, ...], console: Console, asking: Asking) -> None:
    """Each verdict with its evidence."""
    for number, verdict in enumerate(verdicts):
        line(console, _title(verdict), "bold" if not number else "")
        for text in verdict.evidence:
            line(console, f"  for:     {safe(text)}")
        for text in verdict.against:
            line(console, f"  against: {safe(text)}")
        print_step(console, asking, verdict.next, "  next:    ")


def _title(verdict: Verdict) -> str:
    where = "" if verdict.where == "none" else f", {verdict.where}"
    return f"{verdict.kind}{where} ({verdict.confidence} confidence): {safe(verdict.says)}"


def print_page_holders(facts: Facts, console: Console, verbose: bool) -> None:
    """Who holds the pages that no counter has."""
    pages = facts.pages
    if pages is None or pages.unreachable is None or not (pages.held or pages.unreachable):
        return
    line(console, "Pages in no counter", "bold cyan")
    rows = [(h.bytes, f"held by {called(h.root, h.module)}") for h in pages.held]
    shown = rows if verbose else rows[:_FEW_CACHES]
    rest = sum(size for size, _ in rows[len(shown) :])
    shown.append((rest, f"held by {plural(len(rows) - len(shown), 'other')}"))
    shown.append((pages.weak, "weakly held: somebody knows their physical addresses"))
    shown.append((pages.split, "may be the rest of the allocations before them"))
    shown.append((pages.unreachable, "unreachable"))
    for size, what in shown:
        if size:
            line(console, f"  {size_text(size):>12}  {safe(what)}")


def print_caches(facts: Facts, console: Console, verbose: bool) -> None:
    """The largest caches with what is known of each; caches of one purpose under their sum."""
    if not facts.caches:
        return
    line(console, "Largest slab caches", "bold cyan")
    for name, members in cache_families(facts.caches)[: _MANY_CACHES if verbose else _FEW_CACHES]:
        if len(members) == 1:
            line(console, f"  {safe(members[0].name):{_NAME}} {_cache(facts, members[0])}")
            continue
        line(console, f"  {safe(f'{name}, {len(members)} caches'):{_NAME}} {_sum(members)}")
        for cache in members if verbose else members[:_FEW_MEMBERS]:
            line(console, f"    {safe(cache.name):{_NAME - 2}} {_cache(facts, cache)}")
        if not verbose and len(members) > _FEW_MEMBERS:
            rest = members[_FEW_MEMBERS:]
            line(console, f"    {f'{len(rest)} more (-v)':{_NAME - 2}} {_sum(rest)}")


def cache_families(caches: Sequence[CacheFact]) -> list[tuple[str, list[CacheFact]]]:
    """Caches that have slabs by family (kmalloc-64 with kmalloc-cg-64), most bytes first."""
    owners = bucket_owners(c.name for c in caches)
    members: dict[str, list[CacheFact]] = {}
    for cache in caches:
        if cache.bytes:
            members.setdefault(family(cache.name, owners)[0], []).append(cache)
    return sorted(members.items(), key=lambda item: (-sum(c.bytes for c in item[1]), item[0]))


def _sum(caches: Sequence[CacheFact]) -> str:
    allocated, slots = sum(c.allocated for c in caches), sum(c.slots for c in caches)
    use = percent(allocated / slots if slots else 1.0)
    size = size_text(sum(c.bytes for c in caches))
    if not all(c.counted for c in caches):
        return f"{size:>10}"
    return f"{size:>10}  {allocated:>11,} objects, {use:>7} used"


def _cache(facts: Facts, cache: CacheFact) -> str:
    parts = [_sum([cache])]
    if cache.reclaimable:
        parts.append("reclaimable")
    if cache.unreachable is not None and cache.unreachable.estimate:
        parts.append(f"{count_text(cache.unreachable)} unreachable")
    holder = next((h for h in facts.holders if h.cache == cache.name and h.share >= 0.5), None)
    if holder is not None and not nameless(holder.root):
        parts.append(f"{percent(holder.share)} held by {safe(holder.root)}")
    return "; ".join(parts)

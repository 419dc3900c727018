"""The verdict over a whole machine as text: what is wrong, why, what not, what next."""

from __future__ import annotations

from rich.console import Console

from ..analysis.facts import CacheFact, Facts
from ..analysis.judgement import Verdict
from ..analysis.overview import Overview
from .counts import bytes_text
from .growth_text import print_growth
from .memory_text import memory_lines
from .reach_text import reachability_lines
from .safe import safe
from .text import footer, line

_FEW_CACHES, _MANY_CACHES = 5, 20
_NAME = 24


def print_overview(
    overview: Overview,
    facts: Facts,
    verdicts: tuple[Verdict, ...],
    console: Console,
    verbose: bool,
) -> None:
    """The answer to `leakscan` with no argument: the first line is the worst verdict.

    `facts` are the overview's own, with growth if it was asked for.
    """
    print_verdicts(verdicts, console)
    if facts.growth is not None:
        print_growth(facts.growth, console, verbose)
    if overview.accounting is not None:
        line(console, "Where memory is", "bold cyan")
        for text in memory_lines(overview.accounting):
            line(console, f"  {text}")
    print_caches(facts, console, verbose)
    for text in reachability_lines(facts.reachability):
        line(console, safe(text), "dim")
    footer(console, overview.kernel, overview.skipped, overview.interrupted, 0)


def print_verdicts(verdicts: tuple[Verdict, ...], console: Console) -> None:
    """Each verdict with its evidence."""
    for number, verdict in enumerate(verdicts):
        line(console, _title(verdict), "bold" if not number else "")
        for text in verdict.evidence:
            line(console, f"  for:     {safe(text)}")
        for text in verdict.against:
            line(console, f"  against: {safe(text)}")
        line(console, f"  next:    {safe(verdict.next)}")


def _title(verdict: Verdict) -> str:
    where = "" if verdict.where == "none" else f", {verdict.where}"
    return f"{verdict.kind}{where} ({verdict.confidence} confidence): {safe(verdict.says)}"


def print_caches(facts: Facts, console: Console, verbose: bool) -> None:
    """The largest caches with what is known of each."""
    if not facts.caches:
        return
    line(console, "Largest slab caches", "bold cyan")
    for cache in facts.caches[: _MANY_CACHES if verbose else _FEW_CACHES]:
        line(console, f"  {safe(cache.name):{_NAME}} {_cache(facts, cache)}")


def _cache(facts: Facts, cache: CacheFact) -> str:
    size = f"{bytes_text(cache.bytes):>10}"
    parts = [f"{size}  {cache.allocated:>11,} objects, {100 * cache.use:3.0f} % used"]
    if cache.reclaimable:
        parts.append("reclaimable")
    lost = sum(f.objects for f in facts.lost or () if f.cache == cache.name)
    if lost:
        parts.append(f"{lost:,} unreachable")
    holder = next((h for h in facts.holders if h.cache == cache.name and h.share >= 0.5), None)
    if holder is not None:
        parts.append(f"{100 * holder.share:.0f} % held by {safe(holder.root)}")
    return "; ".join(parts)

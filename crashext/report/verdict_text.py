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
from crashext.report.brief_text import (
    Brief,
    growth_sentence,
    print_brief,
    skipped_sentence,
    title,
)
from crashext.report.growth_text import print_growth
from crashext.report.lines import COLUMN, line
from crashext.report.memory_text import BARS_FROM, memory_lines, memory_sentence
from crashext.report.pages_text import print_pages
from crashext.report.reach_text import nameless, reachability_lines
from crashext.report.safe import safe
from crashext.report.text import footer, source_line
from crashext.report.topics import SINCE_WHEN, TOPICS
from crashext.wording import percent, plural, root_text, size_text

_FEW_CACHES, _MANY_CACHES = 5, 20
_FEW_MEMBERS = 3
_FEW_ROWS, _MANY_ROWS = 5, 20
_NAME = 24


def print_overview(
    overview: Overview,
    facts: Facts,
    verdicts: tuple[Verdict, ...],
    console: Console,
    verbose: bool,
    asking: Asking,
    topics: Sequence[str] = (),
) -> None:
    """The answer to `leakscan` with no cache: one screen of it, all of it, or some `topics`.

    `facts` are the overview's own, with growth if it was asked for.
    """
    known = _known(overview, facts)
    if not verbose and not topics:
        print_brief(verdicts, _brief(overview, facts, known), console, asking)
        return
    for topic in topics or known:
        if topic == "why":
            print_verdicts(verdicts, console, asking, verbose)
        elif topic == "growth":
            _growth(facts, console, verbose)
        elif topic == "memory":
            _memory(overview, console, verbose)
        elif topic == "pages":
            print_pages(facts, console, verbose, asking)
        else:
            print_caches(facts, console, verbose)
    for text in reachability_lines(facts.reachability):
        line(console, safe(text), "dim")
    footer(console, overview.kernel, overview.skipped, told_of(overview), 0)


def _known(overview: Overview, facts: Facts) -> tuple[str, ...]:
    """The topics that there is something to say of."""
    unsaid = {
        "growth": facts.growth is None,
        "memory": overview.accounting is None,
        "pages": facts.pages is None,
        "caches": not facts.caches,
    }
    return tuple(topic for topic in TOPICS if not unsaid.get(topic))


def _brief(overview: Overview, facts: Facts, topics: tuple[str, ...]) -> Brief:
    limits = (skipped_sentence(overview.skipped), told_of(overview))
    kernel = overview.kernel
    return Brief(
        memory_sentence(overview.accounting.split) if overview.accounting is not None else "",
        growth_sentence(facts.growth),
        tuple(text for text in limits if text),
        source_line(kernel),
        topics,
    )


def told_of(overview: Overview) -> str:
    """What an interrupted look over the machine has, and has not; "" where it was not."""
    if not overview.interrupted:
        return ""
    known = "the kernel's counters are"
    if overview.facts.pages is not None:
        known = "counters, caches and page frames are"
    elif any(cache.counted for cache in overview.facts.caches):
        known = "counters and caches are"
    missing = "who points at what is not"
    if any("that nothing reaches" in limit for limit in overview.facts.limits):
        missing = "what nothing reaches is counted, and not looked at yet"
    return f"interrupted: {known} all in this; {missing}, so nothing here says leak"


def _memory(overview: Overview, console: Console, verbose: bool) -> None:
    line(console, "Where memory is", "bold cyan")
    if overview.accounting is None:
        line(console, "  how much memory there is was not recorded")
        return
    rows = _MANY_ROWS if verbose else _FEW_ROWS
    bars = console.is_terminal and console.width >= BARS_FROM
    for text in memory_lines(overview.accounting, rows, bars):
        line(console, f"  {text}")


def _growth(facts: Facts, console: Console, verbose: bool) -> None:
    if facts.growth is None:
        line(console, SINCE_WHEN)
    else:
        print_growth(facts.growth, console, verbose)


def print_verdicts(
    verdicts: tuple[Verdict, ...], console: Console, asking: Asking, verbose: bool = False
) -> None:
    """Each verdict with its evidence."""
    for number, verdict in enumerate(verdicts):
        line(console, title(verdict), "bold" if not number else "", hang=4)
        for text in verdict.evidence:
            line(console, f"  for:     {COLUMN}{safe(text)}")
        for text in verdict.against:
            line(console, f"  against: {COLUMN}{safe(text)}")
        if verbose and verdict.overturned_by:
            line(console, f"  unless:  {COLUMN}{safe(verdict.overturned_by)}")
        print_step(console, asking, verdict.next, "  next:    ")


def print_caches(facts: Facts, console: Console, verbose: bool) -> None:
    """The largest caches with what is known of each; caches of one purpose under their sum."""
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
        return f"{COLUMN}{size:>10}"
    return f"{COLUMN}{size:>10}  {plural(allocated, 'object'):>19}, {use:>7} used"


def _cache(facts: Facts, cache: CacheFact) -> str:
    parts = [_sum([cache])]
    if cache.reclaimable:
        parts.append("reclaimable")
    if cache.unreachable is not None and cache.unreachable.estimate:
        parts.append(f"{count_text(cache.unreachable)} unreachable")
    holder = next((h for h in facts.holders if h.cache == cache.name and h.share >= 0.5), None)
    if holder is not None and not nameless(holder.root):
        parts.append(f"{percent(holder.share)} held by {root_text(safe(holder.root))}")
    return "; ".join(parts)

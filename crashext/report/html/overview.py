"""The verdict over a whole machine as a page."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.overview import Overview
from crashext.analysis.results.estimate import count_text
from crashext.analysis.verdict.facts import CacheFact, Facts
from crashext.analysis.verdict.verdict import Verdict
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Details,
    Line,
    Page,
    Points,
    Section,
    number,
    size,
    table,
)
from crashext.report.html.growth import growth_sections
from crashext.report.html.made import Made, limits_section, made_section, of_kernel
from crashext.report.html.memory import memory_section
from crashext.report.html.verdicts import answer_of, first_section, other_sections
from crashext.report.memory_text import memory_lines
from crashext.report.pages_text import allocated
from crashext.report.reach_text import nameless
from crashext.wording import called, percent, percent_of, root_text, size_text, some_of


def overview_page(
    overview: Overview, facts: Facts, verdicts: tuple[Verdict, ...], made: Made, amounts: Amounts
) -> Page:
    """`facts` are the overview's own, with growth if it was asked for."""
    answer, tags = answer_of(verdicts)
    limits = facts.limits
    return Page(
        title=f"leakscan: {overview.kernel.source}",
        answer=answer,
        tags=tags,
        subtitle=of_kernel(overview.kernel),
        sections=(
            *first_section(verdicts, made),
            memory_section(facts, amounts),
            *other_sections(verdicts, made, amounts),
            *growth_sections(facts.growth, facts.split, amounts),
            *_unreachable(facts, amounts),
            *_pages(facts, amounts),
            Section("Who has it", tuple(_holders(overview, facts, amounts))),
            limits_section(
                limits, overview.skipped, overview.interrupted, amounts, facts.reachability
            ),
            made_section(made, overview.kernel, [v.next for v in verdicts]),
        ),
    )


def _unreachable(facts: Facts, amounts: Amounts) -> Iterator[Section]:
    """Everything that nothing leads to, as one table: objects, areas, pages."""
    if facts.unreachable is None:
        return
    rows = [
        (
            Cell(found.cache or found.where),
            number(found.objects.estimate, "bad", count_text(found.objects)),
            number(found.below.estimate, "", count_text(found.below)),
            size(found.bytes),
            Cell(percent_of(found.bytes, facts.total)),
            Cell(called(found.caller, found.module) if found.caller else found.module),
        )
        for found in facts.unreachable
    ]
    rows += [
        (
            Cell("vmalloc areas"),
            Cell(""),
            Cell(""),
            size(a.unreachable),
            Cell(percent_of(a.unreachable, facts.total)),
            Cell(called(a.caller, a.module)),
        )
        for a in facts.areas
        if a.unreachable
    ]
    memory = facts.pages.memory if facts.pages is not None else ()
    rows += [
        (
            Cell(f"blocks of pages: {m.what}"),
            number(m.count, "bad", f"{'~' if m.estimated else ''}{m.count:,}"),
            Cell(""),
            size(m.bytes),
            Cell(percent_of(m.bytes, facts.total)),
            Cell(m.module),
        )
        for m in memory
    ]
    columns = "what | count# | below them# | memory# | of MemTotal# | who"
    blocks: list[Block] = [*table("Unreachable memory", columns, rows, amounts.rows)]
    for found in facts.unreachable[: amounts.rows]:
        said = [*found.evidence, *(f"for example {a:x}" for a in found.examples[:4])]
        if said:
            name = f"What is known of {found.cache or found.where}"
            blocks.append(Details(name, (Points("", tuple(said)),)))
    if not rows:
        blocks.append(Line("Everything that could be judged can be reached.", "good"))
    if facts.explained:
        blocks.append(
            Line(f"{facts.explained:,} unreachable objects are explained: no leak.", "quiet")
        )
    yield Section("What is unreachable", tuple(blocks))


def _pages(facts: Facts, amounts: Amounts) -> Iterator[Section]:
    pages = facts.pages
    if pages is None or pages.unreachable is None:
        return
    none = Cell("")
    rows = [(Cell("unreachable", tone="bad"), size(pages.unreachable), none, none)]
    rows += [
        (
            Cell(called(h.root, h.module)),
            size(h.bytes),
            number(h.blocks),
            Cell(allocated(h).replace("allocated by ", "")),
        )
        for h in pages.held
    ]
    known = some_of([h.root for h in pages.weak_by], 3)
    weak = "weakly held: their physical addresses are " + (f"in {known}" if known else "known")
    rows += [
        (Cell(weak), size(pages.weak), none, none),
        (Cell("may be the rest of the allocations before them"), size(pages.split), none, none),
    ]
    blocks = table(
        "Pages in no counter, by holder",
        "holder | memory# | blocks# | allocated by",
        [row for row in rows if row[1].value],
        amounts.rows,
    )
    kinds = [(Cell(what), Cell(percent(share)), Cell(mod)) for what, mod, share in pages.groups]
    blocks += table("What is in them", "content | share# | module", kinds, amounts.rows)
    if blocks:
        yield Section("Pages in no counter", blocks)


def _holders(overview: Overview, facts: Facts, amounts: Amounts) -> Iterator[Block]:
    held = {h.cache: h for h in facts.holders if h.share >= 0.5 and not nameless(h.root)}
    rows = []
    for cache in facts.caches:
        if cache.bytes:
            holder = held.get(cache.name)
            by = (
                f"{percent(holder.share)} by {root_text(called(holder.root, holder.module))}"
                if holder
                else ""
            )
            rows.append(_cache(cache, by))
    columns = "cache | memory# | objects# | used# | unreachable# | reclaimable | held"
    yield from table("Slab caches", columns, rows, amounts.rows)
    areas = [
        (Cell(called(a.caller, a.module)), size(a.bytes), number(a.areas)) for a in facts.areas
    ]
    yield from table("vmalloc by caller", "caller | memory# | areas#", areas, amounts.rows)
    users = [
        (Cell(f"{p.comm} (pid {p.pid})"), size(p.rss), Cell(size_text(p.swap or 0)))
        for p in facts.processes
    ]
    columns = "process | resident# | swap#"
    yield from table("Processes by memory", columns, users, amounts.rows)
    mounts = [(Cell(m.mount or "the kernel's own"), size(m.bytes)) for m in facts.mounts if m.bytes]
    yield from table("Files in memory (tmpfs)", "mount | memory#", mounts, amounts.rows)
    if overview.accounting is not None:
        lines = tuple(line.strip() for line in memory_lines(overview.accounting, amounts.rows))
        yield Details("The whole accounting, line by line", (Points("", lines),))


def _cache(cache: CacheFact, by: str) -> tuple[Cell, ...]:
    lost = cache.unreachable
    return (
        Cell(cache.name),
        size(cache.bytes),
        number(cache.allocated) if cache.counted else Cell(""),
        Cell(percent(cache.use) if cache.counted else ""),
        Cell("")
        if lost is None
        else number(lost.estimate, "bad" * bool(lost.high), count_text(lost)),
        Cell("yes" if cache.reclaimable else ""),
        Cell(by),
    )

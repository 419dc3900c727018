"""`leakscan --orphans` as a page: everything that nothing reaches."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.results.estimate import count_text
from crashext.analysis.results.evidence import OrphanGroup
from crashext.analysis.results.reports import OrphanReport
from crashext.analysis.types.candidates import settled
from crashext.report.evidence_text import allocator_headline
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Card,
    Cell,
    Figure,
    Line,
    Page,
    Points,
    Section,
    Tone,
    number,
    size,
    table,
)
from crashext.report.html.figures import Node, boxes
from crashext.report.html.made import Made, limits_section, made_section, of_kernel
from crashext.report.html.objects import shape_map, unreached
from crashext.report.html.sites import caller_blocks
from crashext.report.orphans_text import orphan_answer
from crashext.wording import bracketed, called, plural, size_text

_LEGEND = (("lost", "unreachable"), ("kernel", "slab objects that were judged"))
_EXAMPLES = 4


def orphans_page(report: OrphanReport, made: Made, amounts: Amounts) -> Page:
    leaks = [g for g in report.orphans if not g.explanation]
    explained = [g for g in report.orphans if g.explanation]
    tags: tuple[tuple[str, Tone], ...] = (
        (("unreachable memory", "bad"),) if leaks or report.memory else (("none", "good"),)
    )
    sections = [Section("How much", tuple(_totals(report, amounts)))]
    if leaks:
        sections.append(Section("Groups", tuple(_group(g, amounts) for g in leaks[: amounts.rows])))
    if explained:
        rows = [(Cell(g.cache), number(g.objects), Cell(g.explanation)) for g in explained]
        columns = "cache | objects# | why it is no leak"
        sections.append(Section("No leak", table("Explained", columns, rows, amounts.rows)))
    return Page(
        title="leakscan --orphans",
        answer=orphan_answer(report),
        tags=tags,
        subtitle=of_kernel(report.kernel),
        sections=(
            *sections,
            limits_section((), report.skipped, report.interrupted, amounts, report.reachability),
            made_section(made, report.kernel),
        ),
    )


def _totals(report: OrphanReport, amounts: Amounts) -> Iterator[Block]:
    totals = report.totals
    lost = tuple(Node(c.cache, c.bytes, "lost") for c in report.caches)
    judged = Node("slab objects", totals.judged_bytes, "kernel", lost)
    says = f"{size_text(totals.bytes)} of {size_text(totals.judged_bytes)} are unreachable"
    yield Figure(
        f"Slab objects that were judged: {says}, by cache.", boxes([judged], _LEGEND, says)
    )
    rows = [
        (
            Cell(c.cache),
            number(c.objects.estimate, "bad", count_text(c.objects)),
            number(c.heads.estimate, "", count_text(c.heads)),
            number(c.others.estimate, "", count_text(c.others)),
            size(c.bytes),
        )
        for c in report.caches
    ]
    columns = "cache | unreachable# | heads# | of other caches below# | memory#"
    yield from table("Unreachable objects by cache", columns, rows, amounts.rows)
    memory = [
        (
            Cell(called(m.what, m.module) if m.kind == "vmalloc" else m.what),
            Cell(m.kind),
            number(m.count, "bad", f"{'~' if m.estimated else ''}{m.count:,}"),
            size(m.bytes),
            Cell(m.module),
            Cell(", ".join(f"{a:x}" for a in m.examples[:_EXAMPLES]), tone="code"),
        )
        for m in report.memory
    ]
    columns = "what | kind | count# | memory# | module | examples"
    yield from table("Unreachable areas and pages", columns, memory, amounts.rows)
    if totals.dead_words:
        yield Line(
            f"Dead words of stacks, which hold nothing, point at {totals.dead_words:,} of them.",
            "quiet",
        )


def _group(group: OrphanGroup, amounts: Amounts) -> Card:
    about = "~" if group.estimated else ""
    said = [*map(allocator_headline, group.allocators)]
    best = settled(group.types)
    if best is not None:
        said.append(f"may be {bracketed(best.name, best.module)}")
    said += group.notes
    below = [f"{about}{b.objects:,} {b.cache}, {size_text(b.bytes)}" for b in group.below]
    caption = f"What its objects are made of, by the exemplar {group.exemplar:x}: a word a cell."
    heads = f"{about}{plural(group.heads, 'head')} of {group.cache}"
    hanging = group.objects - group.heads
    names = [heads, f"{about}{plural(hanging, 'object')} below"] if hanging > 0 else [heads]
    blocks: list[Block] = [unreached("Nothing leads to the heads.", "no root leads here", *names)]
    blocks += [Points("", tuple(said))] if said else []
    blocks += caller_blocks(group.callers, amounts)
    blocks.append(Figure(caption, shape_map(group.shape, amounts)))
    if below:
        blocks.append(Points("Below them hang:", tuple(below)))
    addresses = ", ".join(f"{a:x}" for a in group.examples[:_EXAMPLES])
    blocks.append(Line(f"examples: {addresses}", "code"))
    title = (
        f"{group.cache}: {about}{plural(group.objects, 'object')} under "
        f"{about}{plural(group.heads, 'head')}, {about}{size_text(group.bytes)}"
    )
    return Card(title, tuple(blocks))

"""`leakscan CACHE...` as a page: each cache, its groups, and what a trace says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crashext.analysis.results.estimate import count_text, share_text
from crashext.analysis.results.joined import JoinedTrace, MarkedCache
from crashext.analysis.results.reports import CacheReport, Group, LeakReport
from crashext.analysis.verdict.verdict import Verdict
from crashext.report.evidence_text import allocator_headline
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Card,
    Cell,
    Details,
    Figure,
    Line,
    Page,
    Points,
    Section,
    Terms,
    Tone,
    number,
    size,
    table,
)
from crashext.report.html.figures import Node, boxes
from crashext.report.html.made import Made, limits_section, made_section, of_kernel, steps
from crashext.report.html.objects import group_figures, reach_blocks
from crashext.report.html.sites import caller_blocks
from crashext.report.html.verdicts import answer_of, first_section, other_sections
from crashext.report.joined_text import joined_answer, joined_rest
from crashext.report.reach_text import cache_reach_lines, held_lines
from crashext.report.text import cache_answer
from crashext.report.types_text import type_lines
from crashext.wording import percent, plural, size_text

_LEGEND = (
    ("lost", "unreachable"),
    ("other", "weakly held"),
    ("kernel", "held"),
    ("free", "not judged"),
)

_FEW = 3
"""Groups that are not folded away."""


def leak_page(
    report: LeakReport, verdicts: tuple[Verdict, ...], made: Made, amounts: Amounts
) -> Page:
    answer, tags = answer_of(verdicts)
    if not verdicts:
        tags = ()
        marked = [joined_answer(c) for c in report.trace.caches] if report.trace else []
        said = marked or [cache_answer(c) for c in report.caches]
        answer = said[0] if said else "There is nothing to look at."
    following = [step for cache in report.caches for step in cache.next_steps]
    return Page(
        title=f"leakscan {', '.join(c.name for c in report.caches)[:200]}",
        answer=answer,
        tags=tags,
        subtitle=of_kernel(report.kernel),
        sections=(
            *first_section(verdicts, made),
            *other_sections(verdicts, made, amounts),
            *(_trace(report.trace, answer, amounts) if report.trace is not None else ()),
            *(
                Section(c.name, tuple(_cache(c, cache_answer(c) != answer, made, amounts)))
                for c in report.caches[: amounts.rows]
            ),
            *_others(report.caches[amounts.rows :], amounts),
            limits_section((), report.skipped, report.interrupted, amounts, report.reachability),
            made_section(made, report.kernel, following),
        ),
    )


def _others(caches: Sequence[CacheReport], amounts: Amounts) -> Iterator[Section]:
    """Caches that have no section of their own, by their answers."""
    if caches:
        said = tuple(cache_answer(c) for c in caches[: 10 * amounts.rows])
        yield Section(plural(len(caches), "more cache"), (Points("", said),))


def _cache(cache: CacheReport, said: bool, made: Made, amounts: Amounts) -> Iterator[Block]:
    """`said`: begin with the answer, which does not stand above the page."""
    if said:
        yield Line(cache_answer(cache))
    rows = [
        ("allocated", f"{count_text(cache.allocated)} of {count_text(cache.objects_total)} slots"),
        ("object", f"{cache.object_size:,} bytes, {cache.slot_size:,} with metadata"),
        ("slabs", f"{count_text(cache.slabs_total)}, {cache.slabs_examined:,} examined"),
        ("also called", ", ".join(cache.aliases)),
        ("flags", ", ".join(f.lower().replace("_", " ") for f in cache.flags)),
        ("constructor", "yes" if cache.has_constructor else ""),
    ]
    yield Terms(tuple(row for row in rows if row[1]))
    if cache.reach is not None:
        reach = cache.reach
        nodes = [
            Node("unreachable", reach.unreachable.estimate * cache.slot_size, "lost"),
            Node("weakly held", reach.weak.estimate * cache.slot_size, "other"),
            Node("held", reach.held.estimate * cache.slot_size, "kernel"),
            Node("not judged", reach.not_judged * cache.slot_size, "free"),
        ]
        says = "; ".join(line.removeprefix("reach: ") for line in cache_reach_lines(reach))
        yield Figure(f"What became of its objects: {says}.", boxes(nodes, _LEGEND, says))
    rows_of_groups = [
        (
            Cell(f"group {i}"),
            number(g.objects.estimate, "", count_text(g.objects)),
            Cell(share_text(g.share)),
            size(g.objects.estimate * cache.slot_size),
            Cell(f"{g.similarity:.2f}"),
            number(g.distinct),
        )
        for i, g in enumerate(cache.groups, 1)
    ]
    columns = "group | objects# | of the cache# | memory# | likeness# | contents seen#"
    yield from table("Groups of alike objects", columns, rows_of_groups, amounts.rows)
    cards = [_group(i, g, cache, amounts) for i, g in enumerate(cache.groups[: amounts.rows], 1)]
    yield from cards[:_FEW]
    if cards[_FEW:]:
        yield Details(plural(len(cards) - _FEW, "smaller group"), tuple(cards[_FEW:]))
    if cache.more_groups:
        what = plural(cache.more_groups, "more group")
        yield Line(f"{what}: {count_text(cache.more, 'object')}", "quiet")
    if cache.rest.high:
        what = "Like no other" if cache.rest_examined else "Not grouped further"
        yield Line(f"{what}: {count_text(cache.rest, 'object')}", "quiet")
    if cache.next_steps:
        yield steps(made, cache.next_steps)


def _group(i: int, group: Group, cache: CacheReport, amounts: Amounts) -> Card:
    blocks: list[Block] = [*reach_blocks(group.held, group.exemplar, amounts)]
    said = (*held_lines(group, False)[:1], *group.notes)
    if said:
        blocks.append(Points("", said))
    blocks += group_figures(group, amounts)
    blocks += _owners(group, amounts)
    blocks += caller_blocks(group.callers, amounts)
    types = tuple(line.strip().removeprefix("- ") for line in type_lines(group, False))
    if types:
        blocks.append(Points("What they may be:", types))
    rows = [
        (
            Cell(f"{t.name} [{t.module}]" if t.module else t.name),
            Cell(f"{t.score:.2f}"),
            number(t.agree),
            number(t.disagree),
            Cell("; ".join((*t.agreements, *(f"not: {d}" for d in t.disagreements)))),
        )
        for t in group.types
    ]
    columns = "struct | score# | words agree# | disagree# | why"
    candidates = table("Candidate types", columns, rows, amounts.rows)
    if candidates:
        blocks.append(Details("Candidate types, and why", candidates))
    if group.residue is not None:
        blocks.append(
            Line(f"{percent(group.residue)} of the free slots look like this too.", "quiet")
        )
    bytes_ = size_text(group.objects.estimate * cache.slot_size)
    lost = group.held is not None and group.held.orphan.value + group.held.structure.value >= 0.5
    tags: tuple[tuple[str, Tone], ...] = (("unreachable", "bad"),) if lost else ()
    title = (
        f"Group {i}: {count_text(group.objects, 'object')} ({share_text(group.share)}), {bytes_}"
    )
    return Card(title, tuple(blocks), tags)


def _owners(group: Group, amounts: Amounts) -> Iterator[Block]:
    """Who allocated a group's objects, or why nobody can tell."""
    said = [
        f"{allocator_headline(a)}{': ' if a.stack else ''}{' <- '.join(a.stack)}"
        for a in group.allocators[: amounts.rows]
    ]
    if group.unattributed:
        said.append(group.unattributed)
    if said:
        yield Points("Who allocated them:", tuple(said))
    if group.absent_rungs:
        absent = Points("", tuple(f"no {rung}" for rung in group.absent_rungs))
        yield Details("Records of allocations that this kernel does not have", (absent,))


def _trace(trace: JoinedTrace, answer: str, amounts: Amounts) -> Iterator[Section]:
    blocks: list[Block] = [Line(note, "warn") for note in trace.notes]
    for cache in trace.caches:
        if joined_answer(cache) != answer:
            blocks.append(Line(joined_answer(cache)))
        blocks += _sites(cache, amounts)
    blocks += [Line(text, "quiet") for text in (*trace.remarks, joined_rest(trace))]
    yield Section("Who allocated it, by the trace", tuple(blocks))


def _sites(cache: MarkedCache, amounts: Amounts) -> Iterator[Block]:
    rows = [
        (
            Cell(f"{s.function} [{s.module}]" if s.module else s.function),
            number(s.outstanding),
            number(s.marked, "bad" if s.marked else ""),
            number(s.reachable) if cache.judged else Cell("-"),
            number(s.allocs),
        )
        for s in cache.sites
    ]
    columns = "function | outstanding# | marked# | reachable# | allocs#"
    yield from table(f"Call sites of {cache.cache}", columns, rows, amounts.rows)

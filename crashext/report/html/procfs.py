"""Saved text of a machine as a page: the verdict, where memory is, who holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from crashext.analysis.proc import ProcReport, Snapshot
from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.verdict import Verdict
from crashext.procfs.stacks import PrintedFrame
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Line,
    Page,
    Section,
    number,
    size,
    table,
)
from crashext.report.html.growth import growth_sections
from crashext.report.html.made import Made, limits_section, made_section
from crashext.report.html.memory import memory_blocks
from crashext.report.html.verdicts import answer_of, first_section, other_sections
from crashext.report.procfs_parts import proc_answer
from crashext.wording import called, percent_of

_FRAMES = 8


def proc_page(
    report: ProcReport, facts: Facts, verdicts: tuple[Verdict, ...], made: Made, amounts: Amounts
) -> Page:
    answer, tags = answer_of(verdicts)
    snapshot = report.snapshot
    memory: list[Block] = [Line(proc_answer(report))]
    if report.split is not None:
        memory += memory_blocks(facts, amounts)
    guess = "" if snapshot.page_size_known else " (a guess)"
    return Page(
        title=f"leakscan {snapshot.path}",
        answer=answer,
        tags=tags,
        subtitle=f"{'running machine' if snapshot.live else 'saved files'} {snapshot.path}; pages "
        f"of {snapshot.page_size:,} bytes{guess}; read: {', '.join(snapshot.files)}",
        sections=(
            *first_section(verdicts, made),
            Section("Where memory is", tuple(memory)),
            *other_sections(verdicts, made, amounts),
            *growth_sections(report.growth, report.split, amounts),
            *_nonempty("Who has it", [*_holders(report, amounts)]),
            *_nonempty("Who allocated it", [*_allocated(snapshot, amounts)]),
            limits_section(report.limits, report.skipped, False, amounts),
            made_section(made, None, [v.next for v in verdicts]),
        ),
    )


def _nonempty(title: str, blocks: Sequence[Block]) -> tuple[Section, ...]:
    return (Section(title, tuple(blocks)),) if blocks else ()


def _holders(report: ProcReport, amounts: Amounts) -> Iterator[Block]:
    page = report.snapshot.page_size
    known = [(Cell(k.name), size(k.bytes), Cell(k.means), Cell(k.by)) for k in report.known]
    columns = "holder | memory# | what it is | who says so"
    yield from table("Who says himself how much he has", columns, known, amounts.rows)
    caches = [
        (
            Cell(f.name),
            size(f.pages * page),
            number(f.active_objs),
            Cell(percent_of(f.active_objs, f.num_objs) if f.num_objs else ""),
            Cell(", ".join(m.name for m in islice((m for m in f.members if m.pages), 4))),
        )
        for f in report.families
    ]
    columns = "cache | memory# | objects# | in use# | made of"
    yield from table("Slab caches by purpose", columns, caches, amounts.rows)
    total = sum(c.pages for c in report.vmalloc)
    areas = [
        (
            Cell(called(c.example.caller, c.module)),
            size(c.pages * page),
            number(c.areas),
            Cell(percent_of(c.pages, total)),
        )
        for c in report.vmalloc
    ]
    columns = "caller | memory# | areas# | share#"
    yield from table("vmalloc by caller", columns, areas, amounts.rows)
    users = [
        (
            Cell(p.comm),
            Cell(str(p.pid)),
            *(
                Cell("") if n is None else size(n)
                for n in (p.rss, p.rss_anon, p.rss_shmem, p.swap, p.page_tables)
            ),
        )
        for p in report.processes
        if p.rss or p.swap
    ]
    columns = "process | pid# | resident# | anon# | shmem# | swap# | page tables#"
    yield from table("Processes", columns, users, amounts.rows)


def _allocated(found: Snapshot, amounts: Amounts) -> Iterator[Block]:
    page = found.page_size
    if found.kmemleak is not None:
        leaks = [
            (
                Cell(_named(g.origin, g.module)),
                number(g.count, "bad"),
                size(g.size),
                Cell(_stack(g.frames)),
            )
            for g in found.kmemleak.groups
        ]
        columns = "function | objects# | memory# | stack"
        yield from table("Unreferenced objects, by kmemleak", columns, leaks, amounts.rows)
    if found.page_owner is not None:
        owners = [
            (
                Cell(_named(g.origin, g.module)),
                number(g.pages),
                size(g.pages * page),
                Cell(_stack(g.frames)),
            )
            for g in found.page_owner.groups
            if g.kind == "kernel"
        ]
        columns = "function | pages# | memory# | stack"
        caption = "Pages that are neither slab nor vmalloc nor movable, by page_owner"
        yield from table(caption, columns, owners, amounts.rows)
    sites = sorted(
        ((cache, site) for cache, t in found.traces.items() for site in t.sites),
        key=lambda item: (-item[1].count, item[0]),
    )
    rows = [(Cell(c), number(s.count), Cell(str(s.site or "not known"))) for c, s in sites]
    columns = "cache | objects# | function"
    yield from table(
        "Who allocated a cache's objects, by alloc_traces", columns, rows, amounts.rows
    )
    tags = found.allocinfo.tags if found.allocinfo is not None else ()
    lines = [
        (
            Cell(f"{t.file}:{t.line}"),
            size(t.bytes),
            number(t.calls),
            Cell(called(t.function, t.module)),
        )
        for t in tags
    ]
    columns = "line of source | memory# | calls# | function"
    yield from table("Lines of source that hold memory, by allocinfo", columns, lines, amounts.rows)


def _named(origin: PrintedFrame | None, module: str) -> str:
    return called(str(origin) if origin is not None else "", module)


def _stack(frames: tuple[PrintedFrame, ...]) -> str:
    return " <- ".join(called(f.symbol, f.module) for f in frames[:_FRAMES])

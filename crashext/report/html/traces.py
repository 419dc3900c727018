"""`leakscan --trace FILE` without memory as a page: who allocated what was not freed, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Details,
    Figure,
    Line,
    Page,
    Points,
    Section,
    number,
    size,
    table,
)
from crashext.report.html.figures import counts_plot
from crashext.report.html.made import Made, limits_section, made_section
from crashext.report.trace_text import hourly, trace_answer
from crashext.trace.summary import Site, TraceSummary
from crashext.wording import duration

_CURVES = 6


def trace_page(trace: TraceSummary, made: Made, amounts: Amounts) -> Page:
    return Page(
        title=f"leakscan --trace {trace.source}",
        answer=trace_answer(trace),
        tags=(),
        subtitle=f"trace {trace.source}, {trace.events:,} events in {trace.seconds:,.3f} s",
        sections=(
            Section("Who allocated what was not freed", tuple(_sites(trace, amounts))),
            Section("Caches and tasks", tuple(_caches(trace, amounts))),
            limits_section(trace.remarks, trace.skipped, trace.interrupted, amounts),
            made_section(made, None),
        ),
    )


def _sites(trace: TraceSummary, amounts: Amounts) -> Iterator[Block]:
    if trace.hashed:
        yield Line(
            "The pointers are hashed: they pair, but no object can be found by them in a dump.",
            "warn",
        )
    held = [site for site in trace.sites if site.outstanding]
    drawn = [(s.function, s.spread) for s in held[:_CURVES] if len(s.spread) > 1]
    if drawn:
        parts = max(len(spread) for _, spread in drawn)
        moments = ["begin", *[""] * (parts - 2), "end"]
        yield Figure(
            "When the outstanding objects were allocated, by tenths of the trace: a leak goes on "
            "all the time, what is set up once does not.",
            counts_plot(drawn, moments, "Outstanding objects by the time of their allocation"),
        )
    yield from _table("Places that allocate slab objects", held, amounts)
    pages = [site for site in trace.pages if site.outstanding]
    yield from _table("Places that allocate pages", pages, amounts)
    some = [(trace.stacks[h.index], h.outstanding) for h in trace.by_stack[: amounts.rows]]
    stacks = tuple(f"{n:,}: {' <- '.join(frames)}" for frames, n in some if frames)
    if stacks:
        yield Details("Stacks of the outstanding objects", (Points("", stacks),))


def _table(caption: str, sites: Sequence[Site], amounts: Amounts) -> Iterator[Block]:
    rows = [
        (
            Cell(f"{s.function} [{s.module}]" if s.module else s.function),
            number(s.outstanding),
            size(s.bytes),
            number(s.allocs),
            number(s.frees),
            Cell("-") if s.marked is None else number(s.marked, "bad" if s.marked else ""),
            Cell(duration(s.oldest)),
        )
        for s in sites
    ]
    columns = "function | outstanding# | memory# | allocs# | frees# | marked# | oldest#"
    yield from table(caption, columns, rows, amounts.rows)


def _caches(trace: TraceSummary, amounts: Amounts) -> Iterator[Block]:
    rows = [
        (
            Cell(c.name),
            number(c.outstanding),
            size(c.bytes),
            number(c.allocs),
            number(c.frees),
            Cell(hourly(c, trace.seconds)),
            Cell(f"{sum(n > 0 for n in c.growth)} of {len(c.growth)} periods"),
        )
        for c in trace.caches
        if c.outstanding
    ]
    columns = "cache | outstanding# | memory# | allocs# | frees# | an hour# | grew in"
    yield from table("Caches, or sizes where the trace names none", columns, rows, amounts.rows)
    tasks = [
        (
            Cell(trace.tasks[h.index].comm),
            Cell(str(trace.tasks[h.index].pid)),
            number(h.outstanding),
            size(h.bytes),
        )
        for h in trace.by_task
    ]
    yield from table("Tasks", "task | pid# | outstanding# | memory#", tasks, amounts.rows)

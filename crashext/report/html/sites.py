"""`leakscan --sites CACHE` as a page: the places in the code that allocate from a cache."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.results.callsites import Callers, CallSite
from crashext.analysis.results.reports import SitesReport
from crashext.report.evidence_text import caller_lines
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Details,
    Line,
    Page,
    Points,
    Section,
    Table,
    table,
)
from crashext.report.html.made import Made, limits_section, made_section, of_kernel
from crashext.report.sites_text import site_name, sites_answer, size_of
from crashext.wording import percent, size_text


def sites_page(report: SitesReport, made: Made, amounts: Amounts) -> Page:
    looked = Line(f"Looked through {size_text(report.text)} of kernel and module text.", "quiet")
    return Page(
        title=f"leakscan --sites {report.cache}",
        answer=sites_answer(report),
        tags=(),
        subtitle=of_kernel(report.kernel),
        sections=(
            Section(
                "Places in the code",
                (
                    *_table("They allocate from it", report.sites, amounts),
                    *_table("They may: what they ask for is not constant", report.varying, amounts),
                    *_table("They give objects back to it", report.freed, amounts),
                    looked,
                ),
            ),
            limits_section((), report.skipped, False, amounts),
            made_section(made, report.kernel),
        ),
    )


def caller_blocks(callers: Callers | None, amounts: Amounts) -> Iterator[Block]:
    """Who may have allocated a group's objects, by the code, and why."""
    if callers is None:
        return
    said = tuple(line.strip() for line in caller_lines(callers, verbose=False))
    yield Points("By the code:", said)
    rows = [
        (
            Cell(site_name(c.site)),
            Cell(percent(c.probability)),
            Cell(c.site.source),
            Cell("; ".join(c.reasons)),
        )
        for c in callers.sites
    ]
    found = table(
        "Places that may have allocated them",
        "function | probability# | source | why",
        rows,
        amounts.rows,
    )
    if found:
        yield Details("All candidates of the code", found)


def _table(caption: str, sites: tuple[CallSite, ...], amounts: Amounts) -> tuple[Table, ...]:
    rows = [
        (
            Cell(site_name(s)),
            Cell(size_of(s)),
            Cell(s.calls),
            Cell(s.source),
            Cell(f"{s.address:x}", tone="code"),
        )
        for s in sites
    ]
    return table(caption, "function | bytes# | calls | source | address", rows, amounts.rows)

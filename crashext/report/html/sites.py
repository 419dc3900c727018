"""`leakscan --sites CACHE` as a page: the places in the code that allocate from a cache."""

from __future__ import annotations

from crashext.analysis.results.callsites import CallSite
from crashext.analysis.results.reports import SitesReport
from crashext.report.html.blocks import Amounts, Cell, Line, Page, Section, Table, table
from crashext.report.html.made import Made, limits_section, made_section, of_kernel
from crashext.report.sites_text import site_name, sites_answer, size_of
from crashext.wording import size_text


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

"""`leakscan --sites CACHE` as text."""

from __future__ import annotations

from rich.console import Console

from crashext.analysis.results.callsites import CallSite
from crashext.analysis.results.reports import SitesReport
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.report.tables import Table, show_table
from crashext.report.text import footer
from crashext.wording import plural, size_text


def sites_answer(report: SitesReport) -> str:
    """The answer in one line."""
    cache = safe(report.cache)
    one = len(report.sites) == 1
    answer = (
        f"{cache}: {plural(len(report.sites), 'place')} in the code allocate{'s' * one} from it"
    )
    if report.varying:
        answer += f"; {len(report.varying):,} more may: {_varying(report)} is not constant there"
    return answer


def print_sites_report(report: SitesReport, console: Console, verbose: bool) -> None:
    """The first line is the answer."""
    line(console, sites_answer(report), "bold")
    _table(console, report.sites)
    if report.varying:
        modules = tuple(s for s in report.varying if s.module)
        shown = report.varying if verbose else modules
        rest = len(report.varying) - len(shown)
        line(console, f"places where {_varying(report)} is not constant:", "bold cyan")
        _table(console, shown)
        if rest:
            line(console, f"  and {rest:,} of the kernel itself (-v shows)")
    if report.freed:
        line(console, f"freed in {plural(len(report.freed), 'place')}:", "bold cyan")
        _table(console, report.freed)
    line(console, f"looked through {size_text(report.text)} of kernel and module text", "dim")
    footer(console, report.kernel, report.skipped, False, None)


def _varying(report: SitesReport) -> str:
    sized = all("kmem_cache_alloc" not in s.calls for s in report.varying)
    return "the size" if sized else "the cache"


def _table(console: Console, sites: tuple[CallSite, ...]) -> None:
    table = Table("lrlt", indent=2)
    for s in sites:
        table.row(site_name(s), size_of(s), safe(s.calls), safe(s.source))
    show_table(console, table)


def site_name(site: CallSite) -> str:
    """``function+0x1e [module]``"""
    module = f" [{safe(site.module)}]" if site.module else ""
    return f"{safe(site.function)}+{site.offset:#x}{module}"


def size_of(site: CallSite) -> str:
    """Bytes that it asks for, as far as the code tells."""
    known = "/".join(map(str, site.sizes))
    return f"from {site.least}" if site.least and not known else known

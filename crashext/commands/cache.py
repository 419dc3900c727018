"""`leakscan CACHE...`: what a cache's objects are, how many are alike, who has them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crashext.analysis.caches import scan_caches
from crashext.analysis.results.reports import LeakReport
from crashext.commands.again import asking, made
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import CacheOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question, options_of
from crashext.hosts.base import Host, HostError, UnknownLayout
from crashext.hosts.keeping import keep
from crashext.hosts.recorded import RecordedHost
from crashext.progress import Progress
from crashext.report.asking import Asking
from crashext.report.text import print_leak_report
from crashext.skipped import Skipped

if TYPE_CHECKING:
    from crashext.analysis.results.joined import Traced
    from crashext.report.html.blocks import Amounts, Page


def answer(options: CacheOptions, place: Place, progress: Progress) -> Output:
    if options.kmem:
        return _printed(options, _by_kmem(options, place.host, progress), Asking(place.tool))
    look = options.look
    try:
        host = open_host(options.source, place)
        with open_view(host, options.source.record, _question(options)) as opened:
            report = keep(
                opened.view.host,
                ("caches", options.caches, look),
                lambda: scan_caches(
                    opened.view,
                    list(options.caches),
                    look.settings,
                    progress,
                    opened.budget,
                    look.refs,
                    look.memory,
                    _traced(opened.view.host),
                ),
                report=True,
            )
    except UnknownLayout as why:
        if not place.inside or options.source.record is not None:
            raise
        from crashext.analysis.kmem_walker import KmemHost

        if not isinstance(place.host, KmemHost):
            raise
        report = _instead(_by_kmem(options, place.host, progress), why)
        return _printed(options, report, Asking(place.tool))
    again = asking(place, options.source, host, look.settings.seed, _whole(report))
    return replace(_printed(options, report, again), lost=opened.lost)


def _printed(options: CacheOptions, report: LeakReport, again: Asking) -> Output:
    walker = ("--walker", "kmem") if options.kmem else ()

    def json() -> str:
        from crashext.report.documents import document

        return document(report)

    def page(amounts: Amounts) -> Page:
        from crashext.report.html.caches import leak_page

        how = made(again, _question(options), options.look, *walker)
        return leak_page(report, (), how, amounts)

    return Output(
        text=lambda console: print_leak_report(report, console, options.printing.verbose, again),
        json=json,
        page=page,
    )


def _traced(host: Host) -> Traced | None:
    """What a session keeps of the trace that was joined when it was recorded."""
    if not isinstance(host, RecordedHost):
        return None
    from crashext.analysis.origin.outstanding import kept

    return kept(host, None)


def _question(options: CacheOptions) -> Question:
    look = options.look
    return Question("leakscan", options.caches, options=options_of(look.settings, look.refs))


def _whole(report: LeakReport) -> bool:
    """Whether every object was looked at: a session of it lists them all."""
    return all(
        c.slabs_total.exact and c.slabs_examined == c.slabs_total.estimate for c in report.caches
    )


def _by_kmem(options: CacheOptions, host: Host, progress: Progress) -> LeakReport:
    from crashext.analysis.kmem_walker import KmemHost, scan_caches_kmem

    if not isinstance(host, KmemHost):
        raise HostError("--walker kmem needs a crash session")
    return scan_caches_kmem(host, list(options.caches), options.look.settings, progress)


def _instead(report: LeakReport, why: UnknownLayout) -> LeakReport:
    """The report of crash's walker, which says that ours did not know the kernel."""
    instead = Skipped(
        f"own slab walker: {why}", 1, "crash's kmem -S was used instead (--walker kmem)"
    )
    return replace(report, skipped=(instead, *report.skipped))

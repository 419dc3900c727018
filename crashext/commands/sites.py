"""`leakscan --sites CACHE`: which code allocates from a cache."""

from __future__ import annotations

from shlex import quote

from crashext.analysis.origin.places import sites_report
from crashext.commands.again import asking
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import SitesOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question
from crashext.kernel.slab.named import find_cache
from crashext.progress import Progress
from crashext.report.documents import document
from crashext.report.html.made import Made
from crashext.report.html.sites import sites_page
from crashext.report.sites_text import print_sites_report


def answer(options: SitesOptions, place: Place, progress: Progress) -> Output:
    question = Question("leakscan", (options.cache,), options=("--sites",))
    host = open_host(options.source, place)
    again = asking(place, options.source, host, 0)
    how = Made(again.typed(f"leakscan --sites {quote(options.cache)}"), again)
    with open_view(host, options.source.record, question) as opened:
        progress(f"{options.cache}: code", 0, 1)
        report = sites_report(opened.view, find_cache(opened.view.caches, options.cache))
    return Output(
        text=lambda console: print_sites_report(report, console, options.printing.verbose),
        json=lambda: document(report),
        page=lambda amounts: sites_page(report, how, amounts),
        lost=opened.lost,
    )

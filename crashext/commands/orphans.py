"""`leakscan --orphans`: every object of every cache that nothing reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashext.analysis.orphans import scan_orphans
from crashext.commands import overview
from crashext.commands.again import asking, made
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import OrphansOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question, options_of
from crashext.progress import Progress
from crashext.report.orphans_text import print_orphan_report, write_list

if TYPE_CHECKING:
    from crashext.report.html.blocks import Amounts, Page


def answer(options: OrphansOptions, place: Place, progress: Progress) -> Output:
    look = options.look
    question = Question("leakscan", orphans=True, options=options_of(look.settings, look.refs))
    host = open_host(options.source, place)
    with open_view(host, options.source.record, question) as opened:
        again = asking(place, options.source, host, look.settings.seed)
        try:
            found = scan_orphans(opened.view, look.settings, progress, look.memory)
        except KeyboardInterrupt:
            # Nothing that was asked is known yet: what the kernel counts is.
            return overview.so_far(options, opened.view, again)
    if options.list is not None:
        write_list(found.addresses, found.caches, options.list, found.explained)
    verbose = options.printing.verbose

    def json() -> str:
        from crashext.report.documents import document

        return document(found.report)

    def page(amounts: Amounts) -> Page:
        from crashext.report.html.orphans import orphans_page

        return orphans_page(found.report, made(again, question, look), amounts)

    return Output(
        text=lambda console: print_orphan_report(found.report, console, verbose),
        json=json,
        page=page,
        lost=opened.lost,
    )

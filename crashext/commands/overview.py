"""`leakscan`: the verdict over a whole machine, with what grew since an earlier moment."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crashext.analysis.overview import Overview, by_counters_alone, look_over, unreadable
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.verdict import Verdict
from crashext.commands.again import asking, asking_of_files, made
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import (
    CacheOptions,
    OrphansOptions,
    OverviewOptions,
    part_as_document,
)
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question, options_of
from crashext.hosts.base import Host, HostError, KernelMissing
from crashext.hosts.crash import CrashHost
from crashext.hosts.keeping import keep
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.report.asking import Asking
from crashext.report.verdict_text import print_overview

if TYPE_CHECKING:
    from crashext.analysis.memory.growth import Compared
    from crashext.report.html.blocks import Amounts, Page


def answer(options: OverviewOptions, place: Place, progress: Progress) -> Output:
    try:
        return _answer(options, place, progress)
    except KernelMissing as gone:
        return _unreadable(gone, options, place)


def _answer(options: OverviewOptions, place: Place, progress: Progress) -> Output:
    look = options.look
    question = Question("leakscan", options=options_of(look.settings, look.refs))
    host = open_host(options.source, place)
    with open_view(host, options.source.record, question) as opened:
        if any(opened.view.caches.find(word) is not None for word in options.topics):
            return _of_caches(options, place, progress)
        if wrong := part_as_document(options.printing, options.topics):
            raise HostError(wrong)
        # The earlier moment first: it may be no such thing, and this one takes longer.
        before = _before(options, opened.view.host, progress)
        again = asking(place, options.source, host, look.settings.seed)
        view = opened.view
        overview = keep(
            view.host,
            ("overview", look),
            lambda: look_over(view, look.settings, progress, look.memory, look.refs),
            report=True,
        )
    facts = overview.facts
    if before is not None:
        from crashext.analysis.memory.growth import growth
        from crashext.analysis.moments import of_overview

        now = of_overview(overview.kernel.source, overview)
        facts = replace(facts, growth=growth([before, now]))
    earlier_moment = () if options.before is None else ("--before", options.before)
    overview = replace(overview, facts=facts)
    return replace(
        _printed(options, overview, judge(facts), again, earlier_moment), lost=opened.lost
    )


def so_far(options: OrphansOptions, view: KernelView, again: Asking) -> Output:
    """What there is to say where another question was interrupted before it had any answer."""
    known = by_counters_alone(view, options.look.settings)
    asked = OverviewOptions(options.source, None, options.look, options.printing)
    return replace(_printed(asked, known, judge(known.facts), again), nothing=True)


def _printed(
    options: OverviewOptions,
    overview: Overview,
    verdicts: tuple[Verdict, ...],
    again: Asking,
    words: tuple[object, ...] = (),
) -> Output:
    """`words`: options that decide about the answer, besides those of how to look."""

    def json() -> str:
        from crashext.report.documents import document

        return document(overview, verdicts)

    def page(amounts: Amounts) -> Page:
        from crashext.report.html.overview import overview_page

        look = options.look
        question = Question("leakscan", options=options_of(look.settings, look.refs))
        how = made(again, question, look, *words)
        return overview_page(overview, overview.facts, verdicts, how, amounts)

    verbose, topics = options.printing.verbose, options.topics
    return Output(
        text=lambda console: print_overview(
            overview, overview.facts, verdicts, console, verbose, again, topics
        ),
        json=json,
        page=page,
    )


def _unreadable(gone: KernelMissing, options: OverviewOptions, place: Place) -> Output:
    """The verdict on a dump without the kernel's variables: that there is none."""
    overview, again = unreadable(gone.info, gone.why), asking_of_files(place, live=False)
    printed = _printed(options, overview, judge(overview.facts), again)
    return replace(printed, lost=options.source.record is not None)


def _of_caches(options: OverviewOptions, place: Place, progress: Progress) -> Output:
    """This kernel has a cache that is called like a topic: caches are what the words name."""
    from crashext.commands import cache

    named = CacheOptions(options.source, options.topics, False, options.look, options.printing)
    return cache.answer(named, place, progress)


def _before(options: OverviewOptions, host: Host, progress: Progress) -> Compared | None:
    if options.before is None:
        return None
    from crashext.commands.before import earlier

    symbols = host.debug_files() if isinstance(host, CrashHost) else options.source.symbols
    source = options.source
    return earlier(options.before, symbols, options.look.settings, progress, source.debuginfod)

"""`leakscan --trace FILE`: who allocated what was not freed; with memory, which of it is leaked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs
from rich.console import Console

from crashext.analysis.caches import scan_caches
from crashext.analysis.origin.outstanding import kept, outstanding
from crashext.analysis.overview import look_over
from crashext.analysis.results.reports import LeakReport
from crashext.analysis.verdict.commands import of_cache
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.verdict import Verdict
from crashext.commands.again import asking, made, made_of_files
from crashext.commands.opening import Opened, open_host, open_view
from crashext.commands.options import Look, Printing, TraceOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question, options_of
from crashext.progress import Progress
from crashext.report.asking import Asking
from crashext.report.documents import TraceTotals, document
from crashext.report.html.caches import leak_page
from crashext.report.html.made import Made
from crashext.report.html.traces import trace_page
from crashext.report.text import print_leak_report
from crashext.report.trace_text import print_trace
from crashext.report.verdict_text import print_verdicts
from crashext.trace import TraceSummary, trace_table

_NO_MEMORY = Asking("shell", answers=lambda words: False)


def answer(options: TraceOptions, place: Place, progress: Progress) -> Output:
    words = ("--trace", str(options.trace))
    trace = trace_table(options.trace)  # before any dump is opened: it may be no trace at all
    if not place.inside and not options.source.given:
        return alone(trace, options.printing, made_of_files(place, _NO_MEMORY, words))
    host, record = open_host(options.source, place), options.source.record
    again = asking(place, options.source, host, options.look.settings.seed)
    with open_view(host, record, Question("leakscan", options.caches)) as opened:
        output = joined(
            trace, opened, options.caches, options.look, options.printing, progress, again, words
        )
    return replace(output, lost=opened.lost)


def alone(trace: TraceSummary, printing: Printing, how: Made) -> Output:
    """The trace without memory."""
    return Output(
        text=lambda console: print_trace(trace, console, printing.verbose),
        json=lambda: document(TraceTotals.of(trace)),
        page=lambda amounts: trace_page(trace, how, amounts),
    )


def joined(
    trace: TraceSummary,
    opened: Opened,
    caches: tuple[str, ...],
    look: Look,
    printing: Printing,
    progress: Progress,
    again: Asking,
    words: Sequence[str],
) -> Output:
    """The trace with memory; without `caches`, those that hold most of it, and the verdict over the
    whole machine with the trace's call sites among its evidence (but where a session is made of
    it, which is of one question). `words`: the options that name the trace."""
    traced = kept(opened.view.host, outstanding(trace))
    report = scan_caches(
        opened.view,
        list(caches),
        look.settings,
        progress,
        opened.budget,
        look.refs,
        look.memory,
        traced,
    )
    verdicts: tuple[Verdict, ...] = ()
    if not opened.recorded and not caches and look.refs is not False:
        overview = look_over(opened.view, look.settings, progress, look.memory, look.refs, traced)
        verdicts = tuple(_unrepeated(v, report) for v in judge(overview.facts))
    # A session tells how to ask again.
    opened.question = Question(
        "leakscan",
        caches or tuple(c.name for c in report.caches),
        options=options_of(look.settings, look.refs),
    )
    said = tuple(replace(s, what=f"{s.what} (trace)") for s in trace.skipped)
    whole = replace(report, skipped=(*report.skipped, *said))

    def text(console: Console) -> None:
        print_verdicts(verdicts, console, again, printing.verbose)
        print_leak_report(whole, console, printing.verbose, again)

    how = made(again, Question("leakscan", caches), look, *words)
    how = replace(how, rows=(*how.rows, ("trace", trace.source)))
    return Output(
        text=text,
        json=lambda: document(whole, verdicts),
        page=lambda amounts: leak_page(whole, verdicts, how, amounts),
    )


def _unrepeated(verdict: Verdict, report: LeakReport) -> Verdict:
    """The verdict without the advice to look at a cache that is shown below it."""
    if any(verdict.next == of_cache(c.name) for c in report.caches):
        return structs.replace(verdict, next=of_cache(""))
    return verdict

"""`leakscan PATH...`: an overview from what was saved as text, without any dump."""

from __future__ import annotations

from pathlib import Path

from crashext.analysis.proc import read_snapshot, report
from crashext.analysis.proc_facts import proc_facts
from crashext.analysis.verdict.rules import judge
from crashext.commands.again import asking_of_files, made_of_files
from crashext.commands.before import earlier
from crashext.commands.options import ProcfsOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.trace import alone
from crashext.procfs.together import moments
from crashext.progress import Progress
from crashext.report.asking import Asking
from crashext.report.documents import ProcFiles, document
from crashext.report.html.procfs import proc_page
from crashext.report.procfs_text import print_proc_report
from crashext.trace import trace_table
from crashext.trace.source import is_trace

_NO_MEMORY = Asking("shell", answers=lambda words: False)


def answer(options: ProcfsOptions, place: Place, progress: Progress) -> Output:
    path = options.paths[0]
    if options.before is None and len(options.paths) == 1 and is_trace(path):
        how = made_of_files(place, _NO_MEMORY, ["--trace", str(path)])
        return alone(trace_table(path), options.printing, how)
    snapshots = [read_snapshot(one, progress) for one in moments(options.paths)]
    before = (
        None
        if options.before is None
        else earlier(
            options.before, options.symbols, options.settings, progress, options.debuginfod
        )
    )
    found = report(snapshots, before)
    facts = proc_facts(found)
    verdicts = judge(facts)
    again = asking_of_files(place, live=options.paths[-1] == Path("/proc"))
    words = [str(path) for path in options.paths]
    if options.before is not None:
        words += ["--before", str(options.before)]
    how = made_of_files(place, again, words)
    verbose = options.printing.verbose
    return Output(
        text=lambda console: print_proc_report(
            found, verdicts, console, verbose, again, options.topics
        ),
        json=lambda: document(ProcFiles.of(found, facts), verdicts),
        page=lambda amounts: proc_page(found, facts, verdicts, how, amounts),
    )

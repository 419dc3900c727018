"""`leakscan --live SECONDS`: a trace of the running kernel, then a look at its memory."""

from __future__ import annotations

from dataclasses import replace

from crashext.commands import trace as traces
from crashext.commands.again import asking, made_of_files
from crashext.commands.mistakes import NOT_LIVE
from crashext.commands.opening import open_host, open_view
from crashext.commands.options import LiveOptions
from crashext.commands.output import Output
from crashext.commands.place import Place
from crashext.commands.questions import Question
from crashext.hosts.base import HostError, UnknownLayout
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.report.asking import Asking
from crashext.trace import TraceSummary
from crashext.trace.live import Wanted, capture


def answer(options: LiveOptions, place: Place, progress: Progress) -> Output:
    if place.inside and not place.host.info().live:
        raise HostError(NOT_LIVE)
    trace = capture(Wanted(options.seconds, options.caches, options.stacks), progress)
    words = ["--live", str(options.seconds), *(["--stacks"] if options.stacks else [])]
    how = made_of_files(place, Asking(place.tool, live=True), words)
    record, printing = options.source.record, options.printing
    try:
        host = open_host(options.source, place)
    except HostError as why:
        if record is not None:
            raise
        return traces.alone(_unmarked(trace, why), printing, how)
    again = asking(place, options.source, host, options.look.settings.seed)
    try:
        with open_view(host, record, Question("leakscan", options.caches)) as opened:
            look = replace(options.look, refs=_refs(options, opened.view))
            output = traces.joined(
                trace, opened, options.caches, look, printing, progress, again, words
            )
    except UnknownLayout as why:
        if record is not None:
            raise
        return traces.alone(_unmarked(trace, why), printing, how)
    return replace(output, lost=opened.lost)


def _refs(options: LiveOptions, view: KernelView) -> bool:
    """Whether to look for who points at the objects: also on a small running machine, for likeness
    alone does not tell leaked objects from living ones."""
    if options.look.refs is not None:
        return options.look.refs
    return view.memory.pages * view.memory.page_size <= MAP_BUDGET


def _unmarked(trace: TraceSummary, why: Exception) -> TraceSummary:
    said = f"memory cannot be read, so nothing is marked: {why}"
    return replace(trace, remarks=(*trace.remarks, said))

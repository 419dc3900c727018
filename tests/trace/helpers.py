"""Reading a trace that is written in the test."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from crashext.report.trace_text import print_trace
from crashext.trace import Site, TraceReader, TraceSummary


def read(text: str | bytes, piece: int = 1 << 20) -> TraceSummary:
    """The summary of `text`, fed `piece` bytes at a time."""
    data = text if isinstance(text, bytes) else text.encode()
    reader = TraceReader("test")
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


def skipped(trace: TraceSummary, what: str) -> int:
    """How many of `what` were skipped; 0 where none is reported."""
    return sum(s.count for s in trace.skipped if what in s.what)


def site(trace: TraceSummary, function: str) -> Site:
    """The site of `function`, objects or pages."""
    return next(s for s in (*trace.sites, *trace.pages) if s.function == function)


def shown(trace: TraceSummary, verbose: bool = True) -> str:
    """The text report, less the last line, which names the file."""
    console = Console(file=StringIO(), width=120, highlight=False, markup=False, emoji=False)
    print_trace(trace, console, verbose)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rpartition("\ntrace ")[0]

"""Allocation traces: read, paired, summed up. Knows text, not memory: no host, no dump.

    summary = trace_table(Path("trace.txt"))

`TraceReader` is the same for bytes that arrive piece by piece, from a pipe for example.
"""

from crashext.trace.summary import Outstanding, Site, TraceSummary
from crashext.trace.table import TraceReader, trace_table

__all__ = ["Outstanding", "Site", "TraceReader", "TraceSummary", "trace_table"]

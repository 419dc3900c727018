"""`perf script` text made from `trace-cmd report` text of the same trace.

A trace recorded by ftrace cannot be had from perf, so its perf form is made here: the layout is
that of perf 6.1 (tools/perf/builtin-script.c: perf_sample__fprintf_start, the event's name in 35
columns less what stands before, sample__fprintf_callchain), and test_lines.py makes real lines
of a real `perf script` again with `sample`, byte for byte. Messages are libtraceevent's in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LINE = re.compile(r"(?:[^\s:]+:\s+)?\s*(.*?)-(\d+)\s+\[(\d+)\]\s+([\d.]+): (\w+):\s+(.*)")
_SITE_TWICE = re.compile(r"\([^)]*\) (?=call_site=)")
_FRAME = re.compile(r"=> (\S+) \(([0-9a-f]+)\)")
_NAME_COLUMNS = 30


def sample(comm: str, pid: int, cpu: int, time: str, event: str, message: str, stack: bool) -> str:
    """The first line of a sample; with stacks, perf does not pad the command."""
    head = f"{comm} {pid:>5}" if stack else f"{comm:>16} {pid:>5}"
    return f"{head} [{cpu:03}] {time:>12}: {'kmem:' + event:>{_NAME_COLUMNS}}: {message}"


def frame(address: str, symbol: str) -> str:
    """One frame of a sample's stack."""
    return f"\t{address:>16} {symbol}+0x1 ([kernel.kallsyms])"


def perf_script(report: Iterable[str], stacks: bool) -> Iterator[str]:
    """Lines of the perf form, in which every stack follows its own event."""
    samples: list[list[str]] = []
    latest: dict[tuple[str, ...], list[str]] = {}
    mine: list[str] = []
    for line in report:
        found = _FRAME.match(line)
        if found:
            mine.append(frame(found[2], found[1]))
            continue
        match = _LINE.fullmatch(line.rstrip("\n"))
        if match is None:
            continue
        where = match.group(1, 2, 3)
        if match[5] == "kernel_stack":
            mine = latest.pop(where, [])
            continue
        message = _SITE_TWICE.sub("", match[6])
        first = sample(match[1], int(match[2]), int(match[3]), match[4], match[5], message, stacks)
        latest[where] = [first]
        samples.append(latest[where])
    for number, lines in enumerate(samples):
        if stacks and number:
            yield ""
        yield from lines

"""Lines of a trace that are no events of ours: headers, losses, other events, damage."""

from __future__ import annotations

import re

from crashext.trace.events import KINDS, Heard

_LOST = re.compile(rb"CPU:\d+ \[(?:LOST (?:(\d+) )?EVENTS|(?:(\d+) )?EVENTS DROPPED)\]")
_PERF_LOST = re.compile(rb"PERF_RECORD_LOST(?:_SAMPLES)?\b.*?lost (\d+)")
_WRITTEN = re.compile(rb"# *entries-in-buffer/entries-written: *(\d+)/(\d+)")
_REMARK = re.compile(
    rb"\s*$|\s*#|cpus=\d|version = \d|CPU \d+ is empty|trace-cmd|Cannot |\s*\.\.\. "
)
_OTHER_EVENT = re.compile(rb"[^\n]*?\d:\s+(?:[\w-]+:)?[\w.-]+:")
_OTHER_LINE = re.compile(rb"[^\n]*?(?:\[\d{1,6}\]|-\d+\s)[^\n]*?\d:\s")
_OURS = re.compile(rb"[: ](?:" + b"|".join(sorted(KINDS, reverse=True)) + rb"): ")


def hear(heard: Heard, line: bytes) -> None:
    """Count a line that is neither an event of ours nor of a stack."""
    line = line[:1024]
    lost = _LOST.search(line) or _PERF_LOST.search(line)
    written = _WRITTEN.match(line)
    if lost:
        heard.lost_lines += 1
        number = next((g for g in lost.groups() if g), None)
        if number is None or len(number) > 18:
            heard.lost_uncounted += 1
        else:
            heard.lost += int(number)
    elif written and max(map(len, written.groups())) <= 18:
        heard.overwritten += max(0, int(written[2]) - int(written[1]))
        heard.remarks += 1
    elif b"<stack trace" in line or b"<user stack trace" in line or _REMARK.match(line):
        heard.remarks += 1
    elif _OURS.search(line):
        heard.unparsable += 1
    elif _OTHER_LINE.match(line) or _OTHER_EVENT.match(line):
        heard.other_events += 1
    else:
        heard.unparsable += 1

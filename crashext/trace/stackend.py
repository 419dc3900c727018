"""Where text of a trace may be cut: not between an event and its stack."""

from __future__ import annotations

import re

_LONGEST_LINE = 1 << 16
_LONGEST_HEAD = 256  # of a line, up to its CPU
_FRAME = re.compile(rb"[ \t]*=>|[^\n]*<stack trace|[ \t]+[0-9a-f]{1,16} [^\n]*\)$", re.MULTILINE)


def stack_end(data: bytes, end: int) -> int:
    """Where the first line starts whose stack may come after `end`; not far before it.

    The last stack may go on. Where stacks are events of their own, the last event of each task and
    CPU may still wait for one.
    """
    least = max(0, end - _LONGEST_LINE)
    apart = data.find(b"<stack trace", least, end) >= 0
    settled: set[bytes] = set()
    start = result = end
    last = True
    while start > least:
        at, start = start, data.rfind(b"\n", 0, start - 1) + 1
        frame = _FRAME.match(data, start, at)
        if frame and not frame[0].endswith(b"<stack trace"):
            continue
        head = data[start : min(at, start + _LONGEST_HEAD)].partition(b"]")[0]
        if not frame and head not in settled:
            result = start
            if not apart:
                break
        if not frame or not last:
            settled.add(head)
        last = False
    return result

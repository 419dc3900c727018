"""Which event a stack in a trace belongs to. It knows lines, not what is in a stack."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray


class StackOwners:
    """Looks for the events of one piece of text."""

    def __init__(
        self,
        data: bytes,
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        framed: NDArray[np.bool_],
        event_of: NDArray[np.int64],
    ) -> None:
        """`start` and `end` of each line, whether it is a frame, and its event or -1."""
        self._data, self._start, self._end = data, start, end
        self._framed, self._event_of = framed, event_of
        self._by_head: dict[bytes, list[int]] = {}

    def of(self, line: int) -> int:
        """The event whose stack follows line `line`; -1: not found, -2: of some other event."""
        if line < 0:
            return -1
        if self._event_of[line] >= 0:
            return int(self._event_of[line])
        head = self._head(line)
        if b"<stack trace" not in self._data[self._start[line] : self._end[line]]:
            return -2
        # ftrace records a stack as an event of its own, after the one that it belongs to on the
        # same CPU. In between may be those of other CPUs, any number where the host of a virtual
        # machine took the CPU away.
        earlier = line - 1
        if earlier < 0 or self._framed[earlier] or self._head(earlier) != head:
            mine = self._lines_by_head()[head]
            at = bisect_left(mine, line) - 1
            if at < 0:
                return -1
            earlier = mine[at]
        return int(self._event_of[earlier]) if self._event_of[earlier] >= 0 else -2

    def _lines_by_head(self) -> dict[bytes, list[int]]:
        """All lines that are no frames, ascending, by task and CPU."""
        if not self._by_head:
            for line in np.flatnonzero(~self._framed).tolist():
                self._by_head.setdefault(self._head(line), []).append(line)
        return self._by_head

    def _head(self, line: int) -> bytes:
        """A line up to its CPU: task and CPU."""
        return self._data[self._start[line] : self._end[line]][:256].partition(b"]")[0]

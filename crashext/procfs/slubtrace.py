"""SLUB's own trace in a kernel log: ``slub_debug=T``, or 1 in /sys/kernel/slab/CACHE/trace.

Every allocation and every free is a line with the object's address, and a stack (mm/slub.c, 2.6.22
to 6.18). What was allocated and not freed again is summed up by stack. Since 4.15 addresses are
hashes; the same object has the same one. Lines that a log lost make both too many and too few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from crashext.procfs.outstanding import (
    MOST_FRAMES,
    MOST_STACKS,
    Outstanding,
    OutstandingTable,
    largest_first,
)
from crashext.procfs.stacks import parse_frame

_MOST_OBJECTS = 1 << 20
_EVENT = re.compile(
    r"\s*TRACE (\S.{0,255}?) (alloc|free) (?:0x)?([0-9a-f]{8,16}) inuse=\d{1,9} fp=.*", re.ASCII
)
_OBJECT = re.compile(
    r"\s*Object\s+(?:0x)?[0-9a-f]{8,16}:\s{1,4}((?:[0-9a-f]{2}\s){1,32}).*", re.ASCII
)
_KMALLOC_SIZE = re.compile(
    r"(?:dma-)?(?:kmalloc|size)-(?:(?:cg|rcl|dma|no-objext|(?:rnd|part)-\d{1,3})-)?"
    r"(\d{1,9})([kM]?)(?:\(DMA\))?",
    re.ASCII,
)
_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20}
# What SLUB and the printing of the stack itself have on top of it.
_TOP = re.compile(
    r"(?:dump_backtrace|show_stack|show_trace|show_regs|dump_stack\w*|trace|__dump_stack"
    r"|(?:alloc|free)_debug_processing|print_\w+|unwind_backtrace|__slab_(?:alloc|free))",
    re.ASCII,
)


@dataclass
class _Event:
    cache: str
    address: str
    allocated: bool
    frames: list[tuple[str, str]] = field(default_factory=list)
    shown: int = 0
    """Bytes of the object that the log shows."""


def parse_slub_trace(lines: Iterable[str]) -> OutstandingTable:
    """Objects that were allocated and not freed, by cache and stack."""
    reader = _Reader()
    for line in lines:
        reader.line(line)
    return reader.result()


class _Reader:
    def __init__(self) -> None:
        self._event: _Event | None = None
        self._alive: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
        self._sizes: dict[str, int] = {}
        self._events = self._left_out = 0

    def line(self, line: str) -> None:
        if head := _EVENT.fullmatch(line):
            self._end()
            self._event = _Event(head[1], head[3], head[2] == "alloc")
        elif self._event is None:
            return
        elif shown := _OBJECT.fullmatch(line):
            self._event.shown += len(shown[1].split())
        elif len(self._event.frames) < MOST_FRAMES and "?" not in line:
            frame = parse_frame(line)
            if frame is not None and frame.size:
                self._event.frames.append((frame.symbol, frame.module))

    def _end(self) -> None:
        event, self._event = self._event, None
        if event is None:
            return
        self._events += 1
        if event.shown:
            self._sizes[event.cache] = max(event.shown, self._sizes.get(event.cache, 0))
        key = (event.cache, event.address)
        if not event.allocated:
            self._alive.pop(key, None)
        elif len(self._alive) < _MOST_OBJECTS:
            self._alive[key] = _below_top(event.frames)
        else:
            self._left_out += 1

    def result(self) -> OutstandingTable:
        self._end()
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        for (cache, _), frames in self._alive.items():
            if (cache, frames) in sums or len(sums) < MOST_STACKS:
                sums[cache, frames] = sums.get((cache, frames), 0) + 1
        found = (
            Outstanding(number * self._size(cache), number, frames, cache)
            for (cache, frames), number in sums.items()
        )
        return OutstandingTable(
            "the kernel's TRACE lines", "bytes", largest_first(found), self._left_out
        )

    def _size(self, cache: str) -> int:
        """Bytes of an object; 0 where neither its name nor the log tells."""
        if named := _KMALLOC_SIZE.fullmatch(cache):
            return int(named[1]) * _UNITS[named[2]]
        return self._sizes.get(cache, 0)


def _below_top(frames: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The stack without what prints it."""
    last = max((i for i, (name, _) in enumerate(frames[:16]) if _TOP.fullmatch(name)), default=-1)
    return tuple(frames[last + 1 :])

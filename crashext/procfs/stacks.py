"""Call stacks as text: what `%pS` prints, in kmemleak's, page_owner's and alloc_traces' files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crashext.allocators import beyond_helpers

MAX_FRAMES = 32  # the kernel keeps 16; syzbot adds inlined ones
_MAX_KNOWN = 1 << 16  # a kernel has fewer call sites that allocate
_MAX_LINE = 1024  # names have 511 bytes at most (6.1)

# [<00000000812c2e1b>] kobject_set_name_vargs+0x3b/0xe0 [module]; from 6.10 on without the address
# (kmemleak), before 4.6 without one in page_owner. syzbot appends file:line, and [inline].
_FRAME = re.compile(
    r"""\s*(?:\[<[0-9a-fx_().ptrval]+>\]\s*)?
    (?P<name>\.?[A-Za-z_][\w.$]*|0x[0-9a-f]{1,16})
    (?:\+(?P<offset>0x[0-9a-f]{1,16})/(?P<size>0x[0-9a-f]{1,16}))?
    (?:\s+\[(?P<module>(?!inline\])[\w-]{1,64})(?:\s[0-9a-f]{1,64})?\])?
    (?P<place>\s+[\w./+-]{1,200}:\d{1,7})?
    (?P<inline>\s+\[inline\])?\s*""",
    re.ASCII | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class PrintedFrame:
    """One line of a stack. `offset` and `size` are 0 and `module` is "" where none is printed."""

    symbol: str
    """Function; ``0xffffffffc05e88b3`` where the kernel had no name for it."""
    offset: int = 0
    size: int = 0
    module: str = ""

    def __str__(self) -> str:
        place = f"+{self.offset:#x}/{self.size:#x}" if self.size else ""
        return f"{self.symbol}{place}{f' [{self.module}]' if self.module else ''}"


def parse_frame(line: str) -> PrintedFrame | None:
    """The frame that a line shows, or None where it shows none."""
    match = _FRAME.fullmatch(line) if len(line) <= _MAX_LINE else None
    if match is None:
        return None
    bare = match["size"] is None
    if bare and match["place"] is None and not match["name"].startswith("0x"):
        return None  # any single word
    return PrintedFrame(
        match["name"].lstrip("."),  # ppc64's function descriptors
        int(match["offset"] or "0", 16),
        int(match["size"] or "0", 16),
        match["module"] or "",
    )


class FrameReader:
    """`parse_frame` for the same few lines over and over: each is parsed, and kept, once."""

    def __init__(self) -> None:
        self._known: dict[str, PrintedFrame] = {}

    def __call__(self, line: str) -> PrintedFrame | None:
        text = line.strip()
        frame = self._known.get(text)
        if frame is None and (frame := parse_frame(text)) and len(self._known) < _MAX_KNOWN:
            self._known[text] = frame
        return frame


def parse_frames(
    lines: Iterable[str], parse: Callable[[str], PrintedFrame | None] = parse_frame
) -> tuple[PrintedFrame, ...]:
    """The frames of `lines`, without those that are none; at most `MAX_FRAMES`."""
    frames = (parse(line) for line in lines)
    return tuple(f for f in frames if f is not None)[:MAX_FRAMES]


def wanted_at(frames: Sequence[PrintedFrame]) -> int | None:
    """The place of `origin` in the stack."""
    return beyond_helpers(f.symbol for f in frames)


def origin(frames: Sequence[PrintedFrame]) -> PrintedFrame | None:
    """The innermost function that wanted the memory, not one that allocates for others."""
    at = wanted_at(frames)
    return None if at is None else frames[at]


def module_of(frames: Iterable[PrintedFrame]) -> str:
    """The innermost module on the stack, "" where the image alone is on it."""
    return next((f.module for f in frames if f.module), "")

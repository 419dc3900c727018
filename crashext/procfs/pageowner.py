"""/sys/kernel/debug/page_owner and page_owner_stacks/show_stacks, grouped by call stack.

Shapes of mm/page_owner.c, 3.19 to 6.18, and of its old out-of-tree form; also what the kernel's
own page_owner_sort makes of them ("12 times, 48 pages:"). The file has one block for every
allocated page and may be gigabytes: it is read once, line by line, and only stacks are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from crashext.procfs.stacks import (
    MAX_FRAMES,
    FrameReader,
    PrintedFrame,
    module_of,
    origin,
    parse_frame,
    parse_frames,
)

_MAX_STACKS = 1 << 15
_MAX_ORDER = 30
_MAX_TEXT = 4096
_MAX_KNOWN = 1 << 16
_MAX_FRAME = 256
_OWNER = re.compile(
    r"[Pp]age allocated via order (\d{1,2})(?:, migratetype \w+)?"
    r"(?:, (?:gfp_)?mask (0x[0-9a-f]{1,16})(?:\(([^)]{0,300})\))?)?"
    r"(?:, pid (-?\d{1,10}))?(?:, tgid (-?\d{1,10}))?(?: \((.{0,64}?)\))?(?:, (?:free_)?ts .*)?",
    re.ASCII,
)
_PFN = re.compile(r"PFN (?:0x)?[0-9a-f]{1,16}\b.*", re.ASCII)
_TYPE = re.compile(r"PFN \S+ (?:Page \S+ )?type (\w+)", re.ASCII)
# page_owner_sort; with --cull the stack, or who asked, comes without a block of page_owner.
_TIMES = re.compile(
    r"(\d{1,19}) times(?:, (\d{1,19}) pages)?(?:,? .*?)?(?:, (?:\d+ )?PID (\d{1,10}))?"
    r"(?:, TGID \d{1,10})?(?:, task_comm_name: (.{0,64}?))?(?:, allocated by [A-Z |]+)?"
    r"(?: \((?:UN)?RELEASED\))?\s*(:?)",
    re.ASCII,
)
_STACK_PAGES = re.compile(r"\s*(nr_base_pages|stack_count): (\d{1,19})\s*", re.ASCII)
_ASIDE = re.compile(
    r"(?:Page has been migrated, .*|Charged .*|Slab cache page|SLAB_PAGE .*|\[detail\].*"
    r"|handle: \d+|\.\.\.)",
    re.ASCII,
)
_SLAB = frozenset(("allocate_slab", "new_slab", "alloc_slab_page", "kmem_getpages", "cache_grow"))
_VMALLOC = frozenset(("__vmalloc_area_node", "__vmalloc_node_range", "vm_area_alloc_pages"))


@dataclass(frozen=True)
class PageOwnerGroup:
    """Allocations with one call stack."""

    frames: tuple[PrintedFrame, ...]
    """Innermost first."""
    allocations: int
    pages: int
    orders: Mapping[int, int]
    """Order -> allocations; empty where only sums are known (show_stacks)."""
    movable: bool
    """Whether they are movable, as pages of user space and of the page cache are."""
    mask: str
    """GFP flags of the first of them, as printed; "" where not."""
    comm: str
    pid: int | None
    """Of the first of them; "" and None where the file does not say."""
    kind: str = field(init=False)
    """What meminfo counts these pages as: ``slab``, ``vmalloc``, ``movable`` (user space or page
    cache), or ``kernel``: pages that somebody took for himself, or page tables."""
    origin: PrintedFrame | None = field(init=False)
    """The innermost frame that is no allocator's."""
    module: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self._kind())
        object.__setattr__(self, "origin", origin(self.frames))
        object.__setattr__(self, "module", module_of(self.frames))

    def _kind(self) -> str:
        names = {f.symbol.split(".", 1)[0].removesuffix("_noprof") for f in self.frames}
        if names & _SLAB:
            return "slab"
        if names & _VMALLOC:
            return "vmalloc"
        return "movable" if self.movable else "kernel"


@dataclass(frozen=True)
class PageOwner:
    """All of a page_owner file."""

    groups: tuple[PageOwnerGroup, ...]
    """Most pages first."""
    allocations: int
    pages: int
    ungrouped: int = 0
    """Pages beyond the stacks that are kept."""
    damaged: int = 0


@dataclass
class _Sum:
    """One stack while the file is read."""

    mask: str
    comm: str
    pid: int | None
    allocations: int = 0
    pages: int = 0
    orders: dict[int, int] = field(default_factory=dict)


@dataclass
class _Block:
    """One allocation, or what page_owner_sort summed, while it is read."""

    order: int | None = None
    times: int = 1
    pages: int | None = None
    movable: bool = False
    mask: str = ""
    comm: str = ""
    pid: int | None = None
    stack: list[str] = field(default_factory=list)


class _Reader:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, bool], _Sum] = {}
        self._block = _Block()
        self._allocations = self._pages = self._ungrouped = self._damaged = 0
        self.frames: dict[str, str] = {}
        """Lines that are known to be frames: nearly every line is, and was seen before."""

    def line(self, line: str) -> None:
        text = line.strip()
        if line[:1] in (" ", "\t", "[") and self._frame(line, text):
            return
        if not text:
            self.end()
        elif head := _OWNER.fullmatch(text):
            times, pages = self._block.times, self._block.pages  # page_owner_sort said them
            if self._block.order is not None:  # no blank line between: the end was cut off
                self.end()
                times, pages = 1, None
            if int(head[1]) > _MAX_ORDER:
                self._damaged += 1
                return
            pid = int(head[4]) if head[4] else None
            self._block = _Block(
                int(head[1]), times, pages, False, head[3] or head[2] or "", head[6] or "", pid
            )
        elif _PFN.fullmatch(text) and self._block.order is not None:
            kind = _TYPE.match(text)
            self._block.movable = kind is not None and kind[1] == "Movable"
        elif times_said := _TIMES.fullmatch(text):
            self.end()
            self._block.times = int(times_said[1])
            self._block.pages = int(times_said[2]) if times_said[2] else None
            self._block.pid = int(times_said[3]) if times_said[3] else None
            self._block.comm = times_said[4] or ""
        elif summed := _STACK_PAGES.fullmatch(text):
            self._total(int(summed[2]))
        elif not _ASIDE.fullmatch(text):
            self._damaged += 1

    def _frame(self, line: str, text: str) -> bool:
        if parse_frame(text) is None:
            return False
        if len(self.frames) < _MAX_KNOWN and len(line) <= _MAX_FRAME:
            self.frames[line] = text
        self.add_frame(text)
        return True

    def add_frame(self, text: str) -> None:
        """One more frame of the block that is being read."""
        if len(self._block.stack) < MAX_FRAMES:
            self._block.stack.append(text)

    def end(self) -> None:
        """A block is over: add it to its stack's sums."""
        block, self._block = self._block, _Block()
        if block.order is None and block.pages is not None:
            self._add(block, block.times, block.pages)
            return
        if block.order is None:
            self._damaged += len(block.stack)  # frames of nothing
            return
        pages = block.times << block.order if block.pages is None else block.pages
        entry = self._add(block, block.times, pages)
        if entry is not None:
            entry.orders[block.order] = entry.orders.get(block.order, 0) + block.times

    def _total(self, number: int) -> None:
        """show_stacks: a stack, then how many pages it has (allocations before 6.11)."""
        block, self._block = self._block, _Block()
        self._add(block, number, number)

    def _add(self, block: _Block, allocations: int, pages: int) -> _Sum | None:
        self._allocations += allocations
        self._pages += pages
        key = ("\n".join(block.stack)[:_MAX_TEXT], block.movable)
        entry = self._sums.get(key)
        if entry is None:
            if len(self._sums) >= _MAX_STACKS:
                self._ungrouped += pages
                return None
            entry = self._sums[key] = _Sum(block.mask, block.comm, block.pid)
        entry.allocations += allocations
        entry.pages += pages
        return entry

    def result(self) -> PageOwner:
        parse = FrameReader()
        groups = [
            PageOwnerGroup(
                parse_frames(stack.split("\n"), parse) if stack else (),
                s.allocations,
                s.pages,
                s.orders,
                movable,
                s.mask,
                s.comm,
                s.pid,
            )
            for (stack, movable), s in self._sums.items()
        ]
        groups.sort(key=lambda g: (-g.pages, [str(f) for f in g.frames]))
        return PageOwner(
            tuple(groups), self._allocations, self._pages, self._ungrouped, self._damaged
        )


def parse_page_owner(lines: Iterable[str]) -> PageOwner:
    """Sum the blocks of page_owner, or the stacks of show_stacks, by call stack."""
    reader = _Reader()
    frames, add_frame, other = reader.frames, reader.add_frame, reader.line
    for line in lines:
        if (frame := frames.get(line)) is not None:
            add_frame(frame)
        else:
            other(line)
    reader.end()
    return reader.result()

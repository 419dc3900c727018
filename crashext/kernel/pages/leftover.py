"""Page frames that the kernel has for itself, by what is behind them; the rest has no name.

Of the page frames that `Frames` calls KERNEL it takes off what areas, chunks of per-CPU memory and
page tables own. What is left are allocations straight from the page allocator: drivers', large
kmalloc()s, and page leaks.

Sources: include/linux/mm_types.h, page-flags.h (4.19 to 6.12).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct, union
from crashext.hosts.base import U64, Bytes, Layout, Mask, Member
from crashext.kernel.access import Words, column, require
from crashext.kernel.addresses import Range
from crashext.kernel.compound import tails
from crashext.kernel.lacking import Lacking
from crashext.kernel.memmap import BLOCK_PAGES
from crashext.kernel.pages.areas import VM_ALLOC, Areas, read_areas
from crashext.kernel.pages.frames import FramePass, Frames, FrameUse, frames
from crashext.kernel.pages.kerneltables import kernel_tables, unmarked_tables, user_tops
from crashext.kernel.pages.percpu import percpu_frames
from crashext.kernel.pages.rawpages import raw_pages
from crashext.kernel.slab.thinning import likely_crowds
from crashext.kernel.slab.view import KernelView
from crashext.procfs.vmallocinfo import STACK_CALLERS
from crashext.progress import Progress

MAX_LOOKED = 1 << 20
"""Page frames whose struct pages are read: 64 MiB of them."""
_FEW_CALLERS = 64
_LIST_POISON1 = 0xDEAD000000000100  # include/linux/poison.h
_MAPPING_FLAGS, _MAPPING_MOVABLE = np.uint64(3), np.uint64(2)  # include/linux/page-flags.h
_KERNEL_HALF = 1 << 63


@dataclass(frozen=True)
class AreaCaller:
    """The vmalloc areas that one function asked for and that own pages."""

    function: str
    """"" where nobody is noted."""
    module: str
    areas: int
    bytes: int
    largest: int
    """Bytes of the largest of them."""
    example: U64
    """Where the largest begins."""


@dataclass(frozen=True)
class AreaPages:
    """Pages that vmalloc areas own, each once."""

    stacks: int
    is_stack: NDArray[np.bool_]
    """bool[areas]: kernel stacks, of tasks and those that wait for the next one."""
    modules: int
    """In module space: modules, and what else is put there, such as compiled BPF programs."""
    other: int
    callers: tuple[AreaCaller, ...]
    """Of all areas that own pages, most pages first."""

    @property
    def pages(self) -> int:
        return self.stacks + self.modules + self.other


@dataclass(frozen=True)
class Leftover:
    """KERNEL page frames, sorted out."""

    vmalloc: int
    """Behind areas, in page frames."""
    percpu: int
    tables: int
    """Page tables that have no mark, and no counter: the kernel's own, and top levels."""
    tracing: int
    """ftrace's records, trace buffers, and the stack depot."""
    table_frames: NDArray[np.int64]
    """int64[n]: page frames of those tables, ascending."""
    frames: NDArray[np.int64]
    """int64[n]: what is left, ascending."""
    limits: tuple[str, ...] = ()
    """What could not be taken off, in sentences."""


@dataclass(frozen=True)
class Pages:
    """All page frames, the areas, and what neither explains: whoever needs one needs them all."""

    frames: Frames
    areas: Areas
    rest: Leftover


@dataclass(frozen=True)
class Blocks:
    """Allocations from the page allocator, as their struct pages tell."""

    first: NDArray[np.int64]
    """int64[n]: page frame that each begins with, ascending."""
    pages: NDArray[np.int64]
    compound: NDArray[np.bool_]
    kmalloc: NDArray[np.bool_]
    """Marked as kmalloc()'s, by kernels that mark them."""
    split: NDArray[np.bool_]
    """Each of its pages counts references, as those of an allocation do that was split."""
    looked: int
    """Page frames that were looked at."""

    def orders(self) -> NDArray[np.int64]:
        """int64[n]: order of each, rounded down."""
        return np.floor(np.log2(np.maximum(self.pages, 1))).astype(np.int64)


def area_pages(view: KernelView, areas: Areas) -> AreaPages:
    """Whose the pages of vmalloc areas are."""
    own = (areas.pages > 0) & (areas.flags & np.uint64(VM_ALLOC) != 0)
    found: list[AreaCaller] = []
    is_stack = np.zeros(len(areas.start), np.bool_)
    for caller in distinct(areas.caller[own]).tolist():
        mine = own & (areas.caller == caller)  # a byte an area: there may be a million of them
        symbol = view.host.symbol_at(caller) if caller else None
        name = symbol.name if symbol else f"{caller:#x}" if caller else ""
        module = symbol.module if symbol else ""
        if not module and name.split(".", 1)[0] in STACK_CALLERS:
            is_stack |= mine
        pages = np.where(mine, areas.pages, 0)
        largest = int(np.argmax(pages))
        found.append(
            AreaCaller(
                name,
                module,
                int(mine.sum()),
                int(pages.sum(dtype=np.int64)) << view.space.page_shift,
                int(areas.pages[largest]) << view.space.page_shift,
                U64(areas.start[largest]),
            )
        )
    in_modules = own & view.space.modules.holds(areas.start)
    for loaded in view.host.modules():
        for start, end in loaded.ranges:
            in_modules |= own & Range(start, end).holds(areas.start)
    found.sort(key=lambda c: (-c.bytes, c.function, c.module))
    stacks, modules = (int(areas.pages[m].sum()) for m in (own & is_stack, in_modules))
    rest = int(areas.pages[own].sum()) - stacks - modules
    return AreaPages(stacks, own & is_stack, modules, rest, tuple(_merged(found)[:_FEW_CALLERS]))


def _merged(callers: list[AreaCaller]) -> list[AreaCaller]:
    """Call sites of one function together."""
    sums: dict[tuple[str, str], AreaCaller] = {}
    for c in callers:
        known = sums.get((c.function, c.module))
        if known is None:
            sums[c.function, c.module] = c
            continue
        most = max(known, c, key=lambda x: x.largest)
        sums[c.function, c.module] = AreaCaller(
            c.function,
            c.module,
            known.areas + c.areas,
            known.bytes + c.bytes,
            most.largest,
            most.example,
        )
    return sorted(sums.values(), key=lambda c: (-c.bytes, c.function, c.module))


def read_pages(view: KernelView, progress: Progress) -> Pages:
    """Read them, and find every slab along with it where that was not done: a pass over the memory
    map."""
    found = _uses(view, progress)
    tables = unmarked_tables(view.host, view.space, view.memory)
    tables = tables[tables < len(found.use)]
    found.use.set(tables[found.use[tables] == FrameUse.KERNEL], np.uint8(FrameUse.TABLE))
    areas = read_areas(view.host, view.memory)
    return Pages(found, areas, leftover(view, found, areas))


def _uses(view: KernelView, progress: Progress) -> Frames:
    """What page frames are used for. Which caches are crowds is known when all slabs are found;
    until then the kernel's counters are believed."""

    def descriptors(crowds: Iterable[int]) -> Words:
        return np.array([view.caches.all[i].address for i in crowds], np.uint64)

    if not view.scanned or not view.index.complete:
        expected = descriptors(likely_crowds(view.caches))
        along = FramePass(view.host, view.memory, view.space, expected)
        view.scan({}, 0, progress, 1 << 62, along)
        if along.complete and set(along.crowds) == set(descriptors(view.index.crowds)):
            return along.frames()
    crowds = descriptors(view.index.crowds if view.index.complete else ())
    return frames(view.host, view.memory, view.space, progress, crowds)


def leftover(view: KernelView, frames: Frames, areas: Areas) -> Leftover:
    """Sort out the KERNEL page frames."""
    host, space = view.host, view.space
    left = frames.use.among(FrameUse.KERNEL)

    def take(which: NDArray[np.int64]) -> int:
        which = which[(which >= 0) & (which < len(left))]
        which = which[left[which]]
        left.set(which, np.bool_(False))
        return len(which)

    vmalloc = take(distinct(areas.frame))
    percpu = take(percpu_frames(host, space, areas))
    own = user_tops(host, space, view.memory, frames.use)
    tables = union(kernel_tables(host, space), own)
    lacking = Lacking()
    walked, tracing = take(tables), take(raw_pages(host, space, lacking))
    return Leftover(vmalloc, percpu, walked, tracing, tables, left.frames(), lacking.sentences)


def blocks(view: KernelView, frames: NDArray[np.int64], rng: np.random.Generator) -> Blocks:
    """The allocations that page frames belong to; of some of them where there are very many."""
    some = _some(frames, rng)
    rows, ok = view.memory.rows(some.astype(np.uint64))
    page = require(view.host, "struct page", "flags")
    flags = column(rows, page["flags"])
    head_bit = view.host.enumerator("PG_head")
    head = np.zeros(len(some), np.bool_)
    if head_bit is not None:
        head = (flags >> np.uint64(head_bit) & np.uint64(1)) == 1
    count = page.first_of("_refcount", "_count")
    tail = tails(view.host, page).among(rows)
    counted = np.ones(len(some), np.bool_) if count is None else column(rows, count) != 0
    # Only the first page of an allocation counts references, unless it was split into pages; no
    # page of a frozen one does.
    alone = (counted & ~tail & ~_split_off(view, page, some, rows)) | head
    failed = np.zeros(len(some), np.bool_)
    if (poison := view.host.enumerator("PG_hwpoison")) is not None:
        failed = flags >> np.uint64(poison) & np.uint64(1) == 1
        alone |= failed & counted & ~tail
    start = alone | (np.diff(some, prepend=-2) != 1) | ~ok
    first = np.flatnonzero(start)
    pages = np.diff(np.append(first, len(some)))
    kmalloc = np.zeros(len(first), np.bool_)
    kind, mark = page.first_of("page_type"), view.host.enumerator("PGTY_large_kmalloc")
    if kind is not None and mark is not None:  # 6.15 marks them
        kmalloc = column(rows[first], kind) >> np.uint64(24) == np.uint64(mark)
    split, lost = kmalloc, kmalloc
    if len(first):
        split = np.logical_and.reduceat(counted & ~tail & ~head, first)
        # Pages of memory that failed, taken from their owner and kept from everybody: nobody is to
        # point at them (mm/memory-failure.c; 2.6.32 to 7.2; meminfo's HardwareCorrupted). Of a
        # larger allocation they stay a part: the kernel cannot take its own memory away.
        lost = np.logical_and.reduceat(failed, first)
    first, own = some[first], ~lost
    heads = head[start]
    return Blocks(first[own], pages[own], heads[own], kmalloc[own], split[own], len(some))


def _split_off(
    view: KernelView, page: Layout, frames: NDArray[np.int64], rows: Bytes
) -> NDArray[np.bool_]:
    """Page frames that were not the first of an allocation when they were last allocated.

    alloc_pages_exact() and others split what they get into single pages, of which only the first
    is known to anybody. Boot makes the list_head of each struct page point at itself; what takes
    the first page of a block off a free list poisons it, and since c07aea3ef4d4 (5.14, which
    brought pp_magic) the allocator then clears the first word of it: clear_page_pfmemalloc().
    Source: __init_single_page(), split_page(), make_alloc_exact() in mm/ (4.19 to 6.12).
    """
    lru = page.first_of("lru")
    if lru is None:
        return np.zeros(len(frames), np.bool_)
    following = column(rows, Member(lru.offset, 8))
    here = view.memory.maps_of(frames.astype(np.uint64)) + np.uint64(lru.offset)
    found = following == here
    if "pp_magic" in page:
        found |= following == np.uint64(_LIST_POISON1)
    return np.asarray(found & ~_movable(view, page, rows), np.bool_)


def _movable(view: KernelView, page: Layout, rows: Bytes) -> Mask:
    """Pages of zsmalloc's, of a balloon's and their like, which compaction may move: each is an
    allocation of its own, but compaction takes them off a list of its own when it is done.

    PAGE_MAPPING_MOVABLE says so since bda807d44454 (4.8); newer kernels have a page type,
    PGTY_zsmalloc, at first beside it (6.12) and then alone (7.2).
    """
    found = np.zeros(len(rows), np.bool_)
    mapping, kind = page.first_of("mapping"), page.first_of("page_type")
    if mapping is not None:
        value = column(rows, mapping)
        found |= (value > np.uint64(_KERNEL_HALF)) & (value & _MAPPING_FLAGS == _MAPPING_MOVABLE)
    number = view.host.enumerator("PGTY_zsmalloc")
    if kind is not None and number is not None:
        found |= column(rows, kind) >> np.uint64(24) == np.uint64(number)
    return found


def _some(frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole stretches of page frames, chosen at random, `MAX_LOOKED` at most."""
    if len(frames) <= MAX_LOOKED:
        return frames
    stretch = frames // BLOCK_PAGES
    numbers, counts = np.unique(stretch, return_counts=True)
    order = rng.permutation(len(numbers))
    chosen = order[np.cumsum(counts[order]) <= MAX_LOOKED]
    return frames[np.isin(stretch, numbers[chosen])]


def reserved_pages(view: KernelView, frames: Frames, start: int, size: int) -> int:
    """RESERVED page frames in a physical range, in pages."""
    first, last = (
        start >> view.space.page_shift,
        (start + size + view.space.page_size - 1) >> view.space.page_shift,
    )
    return int((frames.use.part(first, last) == FrameUse.RESERVED).sum())

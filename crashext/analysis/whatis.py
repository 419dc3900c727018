"""What an address outside slab objects is: a page and its use, an area, a stack, a symbol.

As crash's `kmem ADDR` would say it, and what for. With the marked kernel it knows blocks of pages,
stacks and per-CPU memory by name; without, what single structures tell.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crashext.analysis.likeness.decode import Decoder, symbolic
from crashext.analysis.likeness.words import Classifier, Kind
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.standing import Thing
from crashext.analysis.results.texts import MOST_LINES
from crashext.hosts.base import U64
from crashext.hosts.percpu import PERCPU_END
from crashext.kernel.pages.areas import VM_IOREMAP, VM_MAP
from crashext.kernel.pages.describe import PageState, describe_page, page_state
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.pages.vmalloc import area_at
from crashext.kernel.roots.places import Place, PlaceKind
from crashext.kernel.roots.places import symbolic as named
from crashext.kernel.roots.stacks import Stack
from crashext.kernel.slab.view import KernelView
from crashext.wording import missing, plural

_USES = {
    FrameUse.ANON: "anonymous user memory",
    FrameUse.FILE: "page cache of a file",
    FrameUse.SHMEM: "shared memory, or a file of tmpfs",
    FrameUse.HUGETLB: "huge page of hugetlbfs",
    FrameUse.TABLE: "page table of a process",
    FrameUse.OFFLINE: "page that a balloon took, or that is offline",
    FrameUse.RESERVED: "boot memory: the kernel image, its memory map, what boot allocated",
    FrameUse.SLAB: "page of a slab, where no object is",
    FrameUse.KERNEL: "kernel memory of a known use: a page table, a trace buffer",
}
_WORD = (1 << 64) - 1
_CHUNKS = ("pcpu_get_vm_areas", "pcpu_create_chunk")


class WhatIs:
    """Names addresses of one kernel."""

    def __init__(self, view: KernelView, classifier: Classifier, marked: Reach | None) -> None:
        """`marked` None: what is known of single structures must do."""
        self._view, self._classifier, self._marked = view, classifier, marked

    def at(self, address: int) -> Thing:
        """What `address` is in. Whoever asks has seen that no slab object holds it."""
        view = self._view
        number = np.array([address], np.uint64)
        if address < PERCPU_END:
            return self._percpu_symbol(address)
        words = self._classifier.classify(
            np.array([[*address.to_bytes(8, "little")]], np.uint8), np.array([0], np.uint64)
        )
        kind = Kind(int(words.kinds[0, 0]))
        if kind in (Kind.TEXT_SYMBOL, Kind.DATA_SYMBOL, Kind.MODULE):
            return self._symbol(address, kind)
        if view.space.direct.holds(number)[0]:
            return self._direct(address)
        if view.space.vmemmap.holds(number)[0]:
            return self._struct_page(address)
        if view.space.vmalloc.holds(number)[0]:
            return self._vmalloc(address)
        if kind is Kind.USER:
            return _nothing(address, "a user-space address")
        what = "not a kernel address that is mapped"
        if kind in (Kind.ERR_PTR, Kind.POISON, Kind.LIST_POISON):
            decoder = Decoder(view.host, view, self._classifier)
            what += f": {decoder.meaning(address, kind, 0, 0)}"
        return _nothing(address, what)

    def _percpu_symbol(self, address: int) -> Thing:
        host, space = self._view.host, self._view.space
        symbol = host.symbol_at(address) if address >= self._view.space.page_size else None
        if symbol is None:
            return _nothing(address, "not a kernel address that is mapped")
        copies = [
            f"of CPU {cpu}: {(address + offset) & _WORD:x}"
            for cpu, offset in enumerate(space.percpu_offsets[:MOST_LINES])
        ]
        what = f"{named(symbol, address)} of CPU 0; {address:#x} is its offset in per-CPU memory"
        first = (symbol.address + space.percpu_offsets[0]) & _WORD
        return Thing("per-cpu", what, U64(first), symbol.size, "", tuple(copies))

    def _symbol(self, address: int, kind: Kind) -> Thing:
        symbol = self._view.host.symbol_at(address)
        where = {
            Kind.TEXT_SYMBOL: "in the kernel's text",
            Kind.DATA_SYMBOL: "in the kernel's data",
        }.get(kind, "in a module's text or data")
        start, size = (symbol.address, symbol.size) if symbol else (address, 0)
        what = f"{symbolic(self._view.host, address)}, {where}" if symbol else where
        stack = None if self._marked is None else self._marked.stacks.at(address)
        if stack is not None:
            return _stack(stack, address)
        return Thing("symbol", what, U64(start), size)

    def _direct(self, address: int) -> Thing:
        view = self._view
        frame = view.space.pfn(address)
        marked, state = self._marked, page_state(view.host, view.memory, frame)
        start = U64(address & -view.space.page_size)
        if marked is None:
            what = describe_page(view.host, view.memory, frame)
            return Thing("page", what, start, view.space.page_size, "", _page_lines(view, state))
        return self._frame(marked, address, frame, state)

    def _frame(self, marked: Reach, address: int, frame: int, state: PageState | None) -> Thing:
        view = self._view
        start = U64(address & -view.space.page_size)
        lines = _page_lines(view, state)
        use = FrameUse(int(marked.frames.use[frame])) if frame < len(marked.frames.use) else None
        area, mapped = marked.areas.at(np.array([frame], np.int64))
        if area[0] >= 0 and use is FrameUse.KERNEL:
            here = int(mapped[0])
            inside = self._in_area(marked, int(area[0]), here + address % view.space.page_size)
            return replace(inside, details=(*inside.details, f"page {here:x} of it", *lines))
        if use is FrameUse.FREE:
            return Thing(
                "page", f"page frame {frame:#x}: free", start, view.space.page_size, "free", lines
            )
        node = int(marked.nodes.of_frame[frame]) if use is FrameUse.KERNEL else -1
        if node >= marked.nodes.first_block:
            return self._block(marked, node - marked.nodes.first_block, frame, lines)
        place = marked.places.name(address - view.space.direct.start)
        known = _of_place(place, address)
        if known is not None:
            return replace(known, details=lines)
        if use is None or use is FrameUse.ABSENT:
            what = f"page frame {frame:#x}, whose struct page is {missing(view.host.info().live)}"
            return Thing("page", what, start, view.space.page_size, "unknown")
        of = "the memory map: struct pages" if place.kind is PlaceKind.STRUCT_PAGE else _USES[use]
        return Thing(
            "page", f"page frame {frame:#x}: {of}", start, view.space.page_size, "allocated", lines
        )

    def _block(self, marked: Reach, row: int, frame: int, lines: tuple[str, ...]) -> Thing:
        blocks = marked.nodes.blocks
        first, pages = int(blocks.first[row]), int(blocks.pages[row])
        size = f"{pages << self._view.space.page_shift:,} bytes"
        if blocks.kmalloc[row]:
            what = f"large kmalloc() of {size}, from the page allocator"
        elif blocks.compound[row]:
            what = f"compound block of {plural(pages, 'page')}, {size}, as a large kmalloc() makes"
        else:
            what = f"block of {plural(pages, 'page')} from the page allocator, {size}"
        begin = U64(self._view.space.address(first))
        inside = (f"page {frame - first} of it",) if frame != first else ()
        return Thing(
            "pages",
            what,
            begin,
            pages << self._view.space.page_shift,
            "allocated",
            (*inside, *lines),
            begin,
        )

    def _struct_page(self, address: int) -> Thing:
        view = self._view
        pfns, known = view.memory.pfns_of(np.array([address], np.uint64))
        start = U64(address)
        if not known[0]:
            return Thing("struct-page", "in the memory map, of no page frame", start)
        pfn = int(pfns[0])
        start = U64(view.memory.maps_of(pfns)[0])
        slot = view.slot(view.space.address(pfn))
        if slot is not None:
            of = f"a slab of {slot.cache.name}"
            lines = _page_lines(view, page_state(view.host, view.memory, pfn))
            what = f"struct page of page frame {pfn:#x}: {of}"
            return Thing("struct-page", what, start, view.memory.page_size, "", lines)
        inner = self._direct(view.space.address(pfn))
        return replace(
            inner,
            kind="struct-page",
            what=f"struct page of page frame {pfn:#x}: {inner.what}",
            start=start,
            size=view.memory.page_size,
        )

    def _vmalloc(self, address: int) -> Thing:
        view, marked = self._view, self._marked
        if marked is None:
            area = area_at(view.host, address)
            if area is None:
                return _nothing(address, "vmalloc address, in no area")
            by = f", by {symbolic(view.host, area.caller)}" if area.caller else ""
            what = f"vmalloc area of {area.end - area.start:,} bytes with its guard page{by}"
            return Thing("area", what, U64(area.start), area.end - area.start, "allocated")
        row = int(np.searchsorted(marked.areas.start, np.uint64(address), side="right")) - 1
        if row < 0 or address >= int(marked.areas.end[row]):
            return _nothing(address, "vmalloc address, in no area")
        return self._in_area(marked, row, address)

    def _in_area(self, marked: Reach, row: int, address: int) -> Thing:
        view, areas = self._view, marked.areas
        start, end = int(areas.start[row]), int(areas.end[row])
        stack = marked.stacks.at(address)
        if stack is not None:
            return _stack(stack, address)
        symbol = view.host.symbol_at(int(areas.caller[row])) if areas.caller[row] else None
        by = f", by {named(symbol, int(areas.caller[row]))}" if areas.caller[row] else ""
        size = end - start - view.space.page_size
        if row in marked.stacks.rows:
            what = "stack of a task that is gone, kept for the next one"
            return Thing("stack", what, U64(start), size, "free")
        if symbol is not None and symbol.name.split(".", 1)[0] in _CHUNKS and not areas.pages[row]:
            what = f"chunk of per-CPU memory, {end - start:,} bytes"
            return Thing("per-cpu", what, U64(start), end - start, "allocated")
        flags = int(areas.flags[row])
        kind = "ioremap area" if flags & VM_IOREMAP else "vmap area"
        kind = kind if flags & (VM_MAP | VM_IOREMAP) else "vmalloc area"
        what = f"{kind} of {size:,} bytes{by}"
        lines = []
        if areas.pages[row]:
            lines.append(f"{plural(int(areas.pages[row]), 'page')} of its own")
        if address >= end - view.space.page_size:
            lines.append(f"{address:x} is in its guard page")
        return Thing("area", what, U64(start), size, "allocated", tuple(lines), U64(start))


def _nothing(address: int, what: str) -> Thing:
    return Thing("none", what, U64(address))


def _stack(stack: Stack, address: int) -> Thing:
    dead = address < stack.live
    part = "dead words, left over from calls that returned" if dead else "in use"
    what = f"stack of {stack.comm} (pid {stack.pid}), {stack.end - stack.start:,} bytes: {part}"
    used = f"in use from {stack.live:x} to {stack.end:x}"
    details = (used,) if stack.start < stack.live < stack.end else ()
    return Thing("stack", what, U64(stack.start), stack.end - stack.start, "allocated", details)


def _of_place(place: Place, address: int) -> Thing | None:
    """What the place of a word says of the page that it is in."""
    start = U64(address)
    if place.kind in (PlaceKind.STACK, PlaceKind.DEAD_STACK):
        return Thing("stack", place.name, start, 0, "allocated")
    if place.kind is PlaceKind.PERCPU:
        return Thing("per-cpu", place.name, start, 0, "allocated")
    if place.kind in (PlaceKind.VARIABLE, PlaceKind.MODULE):
        return Thing("symbol", f"{place.name}, by its direct-map address", start)
    return None


def _page_lines(view: KernelView, state: PageState | None) -> tuple[str, ...]:
    """A page frame as its struct page has it."""
    if state is None:
        return ()
    flags = f" ({'|'.join(state.flags)})" if state.flags else ""
    lines = [
        f"page frame {state.pfn:#x}, {state.pfn << view.space.page_shift:#x} physical; struct page "
        f"{state.address:x}: count {state.count}, flags {state.raw_flags:#x}{flags}"
    ]
    if state.mapping:
        inside = state.mapping & -4
        slot = view.slot(inside)
        of = f" in a {slot.cache.name} object" if slot is not None else ""
        lines.append(f"mapping {inside:x}{of}, index {state.index:,}")
    return tuple(lines)

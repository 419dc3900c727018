"""What a word outside slab objects belongs to: a variable, a module's, a CPU's, a stack, a page.

It names words, as examples of who holds an object: thousands of them on a busy machine.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, Symbol
from crashext.kernel.access import Words
from crashext.kernel.addresses import image_shift
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.mappieces import MapPieces
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.view import KernelView

_OF_IMAGE = (FrameUse.RESERVED, FrameUse.ABSENT, FrameUse.UNKNOWN)
_PERCPU_CALLERS = ("pcpu_get_vm_areas", "pcpu_create_chunk")


class PlaceKind(enum.Enum):
    """Kinds of places, the most telling first."""

    MODULE = "module"
    VARIABLE = "variable"
    PERCPU = "per-cpu"
    STACK = "stack"
    VMALLOC = "vmalloc"
    OBJECT = "object"
    PAGE = "page"
    BOOT = "boot"
    STRUCT_PAGE = "struct-page"
    DEAD_STACK = "dead-stack"
    WEAK = "weak"
    """No word at all: a physical address, or pages that belong to others."""


@dataclass(frozen=True)
class Place:
    """Where a word is, by name."""

    kind: PlaceKind
    name: str
    """``leaklab_ipmi_waiting+0x8 [leaklab]``, ``stack of kworker/0:1 (pid 7)``, ..."""
    module: str = ""
    variable: str = ""
    """The name without the offset in the variable."""
    start: int = 0
    """Where a variable begins; 0 for what is none, and for one that each CPU has its own of. Of one
    whose name is not known the word itself."""
    inside: int = -1
    """How far into a variable; -1 for what is in none."""

    @property
    def owner(self) -> str:
        """What many words of one variable have in common."""
        return self.variable or self.name


class Places:
    """Names for direct-map offsets, that is physical addresses, of one kernel."""

    def __init__(
        self, view: KernelView, frames: Frames, areas: Areas, stacks: Stacks, lies: MapPieces
    ) -> None:
        """`lies` is where the memory map is."""
        self._view, self._host = view, view.host
        self._frames, self._areas, self._stacks = frames, areas, stacks
        image, shift = view.space.image, image_shift(view.host)
        self._shift = 0 if shift is None else shift
        self._image = range(0) if shift is None else range(image.start - shift, image.end - shift)
        self._map = lies
        # 0 on x86-64 until 6.14, which a host that cannot tell 0 from nothing does not have.
        self._percpu_start = view.host.address_of("__per_cpu_start") or 0
        self._percpu_size = _percpu_size(view.host)

    def name(self, offset: int) -> Place:
        """The place of the word at a direct-map offset."""
        return self.names(np.array([offset], np.uint64))[0]

    def names(self, offsets: Words) -> list[Place]:
        """The place of each word: what arrays can tell is told for all of them at once."""
        frame = (offsets >> np.uint64(self._view.space.page_shift)).astype(np.int64)
        known = frame < len(self._frames.use)
        use = np.where(known, self._frames.use[np.where(known, frame, 0)], FrameUse.ABSENT)
        image = np.uint64(len(self._image))
        in_image = (offsets - np.uint64(self._image.start) < image) & np.isin(use, _OF_IMAGE)
        area, page = self._areas.at(frame)
        inside = offsets & np.uint64(self._view.space.page_size - 1)
        percpu = self._may_be_percpu(offsets)
        of_map = known & self._map.holds(frame)
        places = []
        told = (offsets, frame, use, in_image, area, page + inside, percpu, of_map)
        for offset, at, kind, of_image, row, address, maybe, in_map in zip(
            *(a.tolist() for a in told), strict=True
        ):
            # Init memory is given to the page allocator after boot: free_init_pages(), 2.6.24 on.
            if of_image:
                places.append(self._variable(offset + self._shift))
            elif row >= 0:
                places.append(self._mapped(row, address, offset))
            else:
                place = self._percpu(offset) if maybe else None
                places.append(place or self._page(offset, at, kind, in_map))
        return places

    def _page(self, offset: int, frame: int, use: int, in_map: bool) -> Place:
        """A word of a page that nothing else is known of."""
        if in_map:
            return Place(PlaceKind.STRUCT_PAGE, "a struct page")
        if use == FrameUse.RESERVED:
            return Place(PlaceKind.BOOT, f"boot memory at {offset:#x} physical")
        inside = offset % self._view.space.page_size
        return Place(PlaceKind.PAGE, f"page frame {frame:#x} +{inside:#x}")

    def _may_be_percpu(self, offsets: Words) -> NDArray[np.bool_]:
        """Which offsets are in some CPU's static part or first chunk."""
        space, mask = self._view.space, (1 << 64) - 1
        addresses = offsets + np.uint64(space.direct.start)
        chunk, found = space.percpu_first_chunk, np.zeros(len(offsets), np.bool_)
        for unit in space.percpu_offsets:
            begin = np.uint64(self._percpu_start + unit & mask)
            found |= addresses - begin < np.uint64(self._percpu_size)
            begin = np.uint64(chunk.start + unit - space.percpu_offsets[0] & mask)
            found |= addresses - begin < np.uint64(chunk.end - chunk.start)
        return found

    def _stack(self, address: int) -> Place | None:
        stack = self._stacks.at(address)
        if stack is None:
            return None
        dead = address < stack.live
        what = "dead words of the stack" if dead else "stack"
        kind = PlaceKind.DEAD_STACK if dead else PlaceKind.STACK
        return Place(kind, f"{what} of {stack.comm} (pid {stack.pid})")

    def _variable(self, address: int) -> Place:
        stack = self._stack(address)
        if stack is not None:
            return stack
        symbol = self._host.symbol_at(address)
        if symbol is None:
            return Place(PlaceKind.VARIABLE, symbolic(symbol, address), start=address)
        name, whole = symbolic(symbol, address), symbolic(symbol, symbol.address)
        inside = address - symbol.address
        return Place(PlaceKind.VARIABLE, name, "", whole, symbol.address, inside)

    def _mapped(self, area: int, address: int, offset: int) -> Place:
        areas = self._areas
        for module in self._host.modules():
            if any(a <= address < b for a, b in module.ranges):
                symbol = self._host.symbol_at(address)
                what = symbolic(symbol, address) if symbol else f"{address:#x} [{module.name}]"
                if symbol is None:
                    return Place(PlaceKind.MODULE, what, module.name, start=address)
                whole, inside = symbolic(symbol, symbol.address), address - symbol.address
                return Place(PlaceKind.MODULE, what, module.name, whole, symbol.address, inside)
        stack = self._stack(address)
        if stack is not None:
            return stack
        if self._stacks.dead(np.array([offset], np.uint64))[0]:
            return Place(PlaceKind.DEAD_STACK, "the stack of a task that is gone")
        if self._stacks.of_gone(area):
            return Place(PlaceKind.VMALLOC, "RCU's list, through the stack of a task that is gone")
        caller = int(areas.caller[area])
        symbol = self._host.symbol_at(caller) if caller else None
        if symbol is not None and symbol.name in _PERCPU_CALLERS:
            return Place(PlaceKind.PERCPU, "per-CPU memory")
        by = f" of {symbolic(symbol, caller)}" if caller else ""
        module_name = symbol.module if symbol else ""
        start = int(areas.start[area])
        return Place(PlaceKind.VMALLOC, f"vmalloc area{by} +{address - start:#x}", module_name)

    def _percpu(self, offset: int) -> Place | None:
        address = self._view.space.direct.start + offset
        start = self._percpu_start
        # The static part of a CPU's unit begins at __per_cpu_start + __per_cpu_offset[cpu].
        for cpu, unit in enumerate(self._view.space.percpu_offsets):
            inside = address - (start + unit & (1 << 64) - 1)
            if 0 <= inside < self._percpu_size:
                symbol = self._host.symbol_at(start + inside)
                what = symbolic(symbol, start + inside) if symbol else f"per-CPU +{inside:#x}"
                whole = symbol.name if symbol else what
                within = start + inside - symbol.address if symbol else -1
                name = f"{what} of CPU {cpu}"
                return Place(PlaceKind.PERCPU, name, variable=whole, inside=within)
        if self._view.space.percpu_first_chunk.start <= address and self._in_first_chunk(address):
            return Place(PlaceKind.PERCPU, "per-CPU memory")
        return None

    def _in_first_chunk(self, address: int) -> bool:
        chunk = self._view.space.percpu_first_chunk
        first = self._view.space.percpu_offsets[0]
        size = chunk.end - chunk.start
        return any(
            0 <= address - (chunk.start + unit - first) < size
            for unit in self._view.space.percpu_offsets
        )


def symbolic(symbol: Symbol | None, address: int) -> str:
    """``name+0x10 [module]``."""
    if symbol is None:
        return f"{address:#x}"
    offset = f"+{address - symbol.address:#x}" if address != symbol.address else ""
    return f"{symbol.name}{offset}" + (f" [{symbol.module}]" if symbol.module else "")


def _percpu_size(host: Host) -> int:
    start, end = host.address_of("__per_cpu_start") or 0, host.address_of("__per_cpu_end") or 0
    return max(0, end - start)

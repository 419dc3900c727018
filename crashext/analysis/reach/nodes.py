"""What the mark judges: slab objects, vmalloc areas, and blocks of pages; each has a number.

Slots of slabs come first, then areas, then blocks. Stacks, modules and per-CPU memory are areas
that are in use as long as somebody runs there: they are where the mark begins, and no nodes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame, spread
from crashext.kernel.pages.areas import VM_ALLOC, VM_MAP, Areas
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.pages.idleareas import idle_records
from crashext.kernel.pages.leftover import Blocks
from crashext.kernel.pages.mappieces import MapPieces
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView

Nodes32 = NDArray[np.int32]
_ANY = -1


class NodeKind(enum.Enum):
    """What a node is."""

    OBJECT = "slab object"
    AREA = "vmalloc area"
    PAGES = "pages"


@dataclass(frozen=True)
class Nodes:
    """All nodes of one kernel, and which of them memory and pointers belong to."""

    view: KernelView
    table: SlotTable
    areas: Areas
    area_row: NDArray[np.int64]
    """int64[n]: rows of `areas` that are nodes, ascending."""
    blocks: Blocks
    of_frame: ByFrame[np.int32]
    """The area or block that has the page frame; -1 where none has."""
    map: MapPieces
    """Where the memory map lies."""
    used: ByFrame[np.bool_]
    """Page frames that are not free."""
    own: Words
    """uint64[n], ascending: addresses of structures that know an area because they describe it."""
    own_area: NDArray[np.int32]
    """int32[n]: the row of the area that each describes; -1 where it speaks for none."""

    @property
    def first_area(self) -> int:
        return self.table.count

    @property
    def first_block(self) -> int:
        return self.table.count + len(self.area_row)

    @property
    def count(self) -> int:
        return self.first_block + len(self.blocks.first)

    def kind(self, node: int) -> NodeKind:
        """What the node of this number is."""
        if node < self.first_area:
            return NodeKind.OBJECT
        return NodeKind.AREA if node < self.first_block else NodeKind.PAGES

    def of_area_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Nodes of rows of `areas`, -1 where a row is none: int64[n] -> int64[n]."""
        if not len(self.area_row):
            return np.full(len(rows), -1, np.int64)
        at = np.minimum(np.searchsorted(self.area_row, rows), len(self.area_row) - 1)
        return np.where(self.area_row[at] == rows, self.first_area + at, -1)

    def rows_of_areas(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of `areas` of nodes that are areas, -1 for others."""
        is_area = (nodes >= self.first_area) & (nodes < self.first_block)
        result = np.full(len(nodes), -1, np.int64)
        result[is_area] = self.area_row[nodes[is_area] - self.first_area]
        return result

    def addresses(self, nodes: NDArray[np.int64]) -> Words:
        """Where nodes begin: int64[n] -> uint64[n]; pages at their direct-map address."""
        result = np.zeros(len(nodes), np.uint64)
        is_slot, is_block = nodes < self.first_area, nodes >= self.first_block
        is_area = ~is_slot & ~is_block
        result[is_slot] = self.table.addresses(nodes[is_slot])
        result[is_area] = self.areas.start[self.area_row[nodes[is_area] - self.first_area]]
        first = self.blocks.first[nodes[is_block] - self.first_block].astype(np.uint64)
        result[is_block] = self.view.space.addresses(first)
        return result

    def bytes(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of nodes: of an object without its slot's metadata, of an area's own pages."""
        result = np.zeros(len(nodes), np.int64)
        is_slot, is_block = nodes < self.first_area, nodes >= self.first_block
        is_area = ~is_slot & ~is_block
        result[is_slot] = self.table.length[self.table.rows(nodes[is_slot])]
        pages = self.areas.pages[self.area_row[nodes[is_area] - self.first_area]]
        result[is_area] = pages.astype(np.int64) << self.view.space.page_shift
        result[is_block] = (
            self.blocks.pages[nodes[is_block] - self.first_block] << self.view.space.page_shift
        )
        return result

    def pointed_at(self, values: Words) -> NDArray[np.int64]:
        """Nodes that words of memory lead to, -1 elsewhere: uint64[n] -> int64[n].

        By direct-map and vmalloc addresses, interior ones too. Struct page pointers hold blocks
        only: who owns an object or an area knows its address.
        """
        found = np.full(len(values), -1, np.int64)
        offsets = values - np.uint64(self.table.start)
        direct = offsets < np.uint64(len(self.table.row_of_page) << self.view.space.page_shift)
        found[direct] = self.at_offsets(offsets[direct])
        rest = np.flatnonzero(~direct)
        found[rest] = self._in_areas(values[rest])
        maps = rest[self.view.space.vmemmap.holds(values[rest])]
        frames, ok = self.view.memory.pfns_of(values[maps])
        ok &= frames < np.uint64(len(self.of_frame))
        block = self.of_frame[frames[ok].astype(np.int64)]
        found[maps[ok]] = np.where(block >= self.first_block, block, -1)
        return found

    def at_offsets(self, offsets: Words) -> NDArray[np.int64]:
        """Nodes whose memory is at direct-map offsets: uint64[n] -> int64[n]."""
        slot, _ = self.table.locate(offsets)
        frame = (offsets >> np.uint64(self.view.space.page_shift)).astype(np.int64)
        inside = frame < len(self.of_frame)
        return np.where(
            (slot < 0) & inside, self.of_frame[np.minimum(frame, len(self.of_frame) - 1)], slot
        )

    def _in_areas(self, values: Words) -> NDArray[np.int64]:
        if not len(self.area_row):
            return np.full(len(values), -1, np.int64)
        row = np.searchsorted(self.areas.start, values, side="right") - 1
        good = (row >= 0) & (values < self.areas.end[np.maximum(row, 0)])
        return self.of_area_rows(np.where(good, row, -1))

    def describes(self, sources: Words, targets: NDArray[Any]) -> Mask:
        """Where the structure at an address points at an area only because it describes it."""
        if not len(self.own):
            return np.zeros(len(sources), np.bool_)
        at = np.minimum(np.searchsorted(self.own, sources), len(self.own) - 1)
        mine = self.own_area[at]
        row = self.rows_of_areas(targets.astype(np.int64))
        return np.asarray((self.own[at] == sources) & (row >= 0) & ((mine == row) | (mine == _ANY)))


def nodes(
    view: KernelView,
    table: SlotTable,
    frames: Frames,
    areas: Areas,
    stacks: Stacks,
    blocks: Blocks,
    lies: MapPieces,
) -> Nodes:
    """Number everything; `lies` is where the memory map is."""
    rows = _judged_areas(view, areas, stacks)
    of_frame: ByFrame[np.int32] = ByFrame.filled(len(frames.use), np.int32(-1))
    numbers = np.full(len(areas.start), -1, np.int32)
    numbers[rows] = table.count + np.arange(len(rows), dtype=np.int32)
    inside = areas.frame < len(of_frame)
    inside[inside] = frames.use[areas.frame[inside]] == FrameUse.KERNEL
    of_frame.set(areas.frame[inside], numbers[areas.frame_area[inside]])
    first = table.count + len(rows)
    numbered = first + np.arange(len(blocks.first), dtype=np.int32)
    where = spread(blocks.first, blocks.first + blocks.pages)
    of_frame.set(where, np.repeat(numbered, blocks.pages))
    own, own_area = _descriptions(view, areas)
    return Nodes(
        view=view,
        table=table,
        areas=areas,
        area_row=rows,
        blocks=blocks,
        of_frame=of_frame,
        map=lies,
        used=~frames.use.among(FrameUse.FREE, FrameUse.ABSENT),
        own=own,
        own_area=own_area,
    )


def _judged_areas(view: KernelView, areas: Areas, stacks: Stacks) -> NDArray[np.int64]:
    """Rows of areas that are nodes: vmalloc()'s and vmap()'s, but for those where code runs."""
    kept = areas.flags & np.uint64(VM_ALLOC | VM_MAP) != 0
    # Modules, compiled BPF programs; the image itself has areas on arm64.
    kept &= ~view.space.modules.holds(areas.start) & ~view.space.image.holds(areas.start)
    kept[[row for row in stacks.rows if row < len(kept)]] = False
    # A chunk of per-CPU memory: an area whose pages are not its own, that pcpu_* asked for.
    for caller in distinct(areas.caller[kept]).tolist():
        symbol = view.host.symbol_at(caller) if caller else None
        if symbol is not None and symbol.name.startswith("pcpu_"):
            kept[areas.caller == caller] = False
    for module in view.host.modules():
        for start, end in module.ranges:
            kept &= (areas.start < np.uint64(start)) | (areas.start >= np.uint64(end))
    return np.flatnonzero(kept)


def _descriptions(view: KernelView, areas: Areas) -> tuple[Words, NDArray[np.int32]]:
    """Addresses of areas' vmap_areas, vm_structs and arrays of pages, and whom they speak of.

    A vmap_area's end is where its neighbour may begin, so that it speaks for no area at all; nor
    does that of a free range.
    """
    rows = np.arange(len(areas.start), dtype=np.int32)
    nobody = np.full(len(areas.record), _ANY, np.int32)
    others = idle_records(view.host)
    address = np.concatenate([areas.record, areas.structure, areas.array, others])
    area = np.concatenate([nobody, rows, rows, np.full(len(others), _ANY, np.int32)])
    order = np.argsort(address, kind="stable")
    order = order[np.searchsorted(address[order], np.uint64(1)) :]
    return address[order], area[order]

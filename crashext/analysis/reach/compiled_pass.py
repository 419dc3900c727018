"""What words of memory are in, and whether they hold what they lead to: by pointers.c."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.leftovers import POISON
from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.sources import Found, Sources
from crashext.kernel.access import Words
from crashext.kernel.compiled import FrameTable, Kept, SlotLoops, SlotsTable
from crashext.kernel.slab.objects import State

_KINDS = 11
_PAGES, _DEAD = 2, 6
"""Kinds before `_PAGES` are edges, those before `_DEAD` edges by struct pages, those after it
roots."""
_ROOTS = ((7, False), (8, False), (9, True), (10, True))
_POINTER, _U64, _I64, _I32, _U8 = (
    *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int32, ctypes.c_uint8),
)


class _Table(ctypes.Structure):
    _fields_ = [("key", _POINTER), ("length", _I64)]


class _Targets(ctypes.Structure):
    _fields_ = [
        ("slots", SlotsTable),
        ("of_frame", FrameTable),
        ("state", _POINTER),
        ("of_tasks", _POINTER),
        ("poison", _POINTER),
        ("poisons", _I64),
        ("code_start", _U64),
        ("code_end", _U64),
        ("direct", _U64),
        ("lowest", _U64),
        ("span", _U64),
        ("areas", _Table),
        ("area_end", _POINTER),
        ("area_node", _POINTER),
        ("map_start", _U64),
        ("map_end", _U64),
        ("map_blocks", _Table),
        ("map_order", _POINTER),
        ("map_pfn", _POINTER),
        ("map_pages", _POINTER),
        ("page_struct", _U64),
        ("first_area", _I32),
        ("first_block", _I32),
        ("allocated", _U8),
        ("unknown", _U8),
    ]


class _Sources(ctypes.Structure):
    _fields_ = [
        ("wanted", FrameTable),
        ("used", FrameTable),
        ("own", _Table),
        ("own_area", _POINTER),
        ("area_row", _POINTER),
        ("block_first", _POINTER),
        ("silent", _Table),
        ("silent_end", _POINTER),
        ("dead", _Table),
        ("dead_part", _POINTER),
        ("stale", _Table),
        ("map", _Table),
        ("map_end", _POINTER),
        ("map_pfn", _POINTER),
        ("links", _POINTER),
        ("links_count", _I64),
        ("bookkeeping", _POINTER),
        ("bookkeeping_word", _U64),
        ("vector", _U64),
    ]


class _Found(ctypes.Structure):
    _fields_ = [
        ("source", _POINTER),
        ("target", _POINTER),
        ("work", _POINTER),
        ("begin", _I64 * _KINDS),
        ("count", _I64 * _KINDS),
    ]


class _Room(threading.local):
    """Arrays of a thread that the loop writes to."""

    words = 0

    def of(self, words: int) -> _Found:
        if words > self.words:
            self.words = words
            self.source, self.target = np.empty((2, words), np.int32)
            self.work = np.empty(7 * words + 16, np.int32)
            arrays = (self.source, self.target, self.work)
            self.found = _Found(*(array.ctypes.data for array in arrays))
        return self.found


class CompiledPass:
    """Looks at words, in any thread."""

    def __init__(self, known: Sources, loops: SlotLoops) -> None:
        self._look = loops.library.crashext_pointers
        self._kept, self._room = Kept(), _Room()
        self._slots = loops
        self._tables = self._targets(known, loops.table), self._sources(known)
        self._at = tuple(ctypes.addressof(table) for table in self._tables)

    def look(self, offset: int, words: Words) -> Found:
        """What words say that begin at direct-map `offset`."""
        words = np.ascontiguousarray(words, np.uint64)
        out = self._room.of(len(words))
        roots = self._look(*self._at, words.ctypes.data, len(words), offset, ctypes.addressof(out))
        begin, count = list(out.begin), list(out.count)
        end = begin[-1] + count[-1]
        source, target = self._room.source[:end].copy(), self._room.target[:end].copy()
        found = Found(roots=roots)
        for by_page, first, last in (
            (False, 0, begin[_PAGES]),
            (True, begin[_PAGES], begin[_DEAD]),
        ):
            if first < last:
                found.edges.append((by_page, source[first:last], target[first:last]))

        def placed(kind: int) -> tuple[Words, NDArray[np.int32]]:
            some = slice(begin[kind], begin[kind] + count[kind])
            return np.uint64(offset) + source[some].astype(np.uint64) * np.uint64(8), target[some]

        if count[_DEAD]:
            found.dead.append(placed(_DEAD))
        for kind, by_page in _ROOTS:
            if count[kind]:
                found.rooted.append((by_page, *placed(kind)))
        return found

    def _table(self, keys: NDArray[np.uint64] | NDArray[np.int64]) -> _Table:
        return _Table(self._kept.array(keys, np.uint64), len(keys))

    def _targets(self, known: Sources, slots: SlotsTable) -> _Targets:
        nodes, kept, table = known.nodes, self._kept, known.nodes.table
        space, memory = nodes.view.space, nodes.view.memory
        # All that nodes can be pointed at by lies in these, wherever the kernel image is.
        ranges = (space.direct, space.vmalloc, space.vmemmap)
        lowest = min(r.start for r in ranges)
        order, starts = memory.by_map
        return _Targets(
            slots=slots,
            of_frame=kept.by_frame(nodes.of_frame),
            state=kept.array(table.state, np.uint8),
            of_tasks=kept.array(table.index.cache == known.task, np.uint8),
            poison=kept.array(POISON, np.uint64),
            poisons=len(POISON),
            code_start=space.code.start,
            code_end=space.code.end,
            direct=space.direct.start,
            lowest=lowest,
            span=max(r.end for r in ranges) - lowest,
            areas=self._table(nodes.areas.start),
            area_end=kept.array(nodes.areas.end, np.uint64),
            area_node=kept.array(_area_nodes(nodes), np.int32),
            map_start=space.vmemmap.start,
            map_end=space.vmemmap.end,
            map_blocks=self._table(starts),
            map_order=None if order is None else kept.array(order, np.int64),
            map_pfn=kept.array(memory.block_pfns, np.uint64),
            map_pages=kept.array(memory.block_pages, np.uint64),
            page_struct=memory.page_size,
            first_area=nodes.first_area,
            first_block=nodes.first_block,
            allocated=State.ALLOCATED,
            unknown=State.UNKNOWN,
        )

    def _sources(self, known: Sources) -> _Sources:
        nodes, kept = known.nodes, self._kept
        return _Sources(
            wanted=kept.by_frame(known.wanted),
            used=kept.by_frame(nodes.used),
            own=self._table(nodes.own),
            own_area=kept.array(nodes.own_area, np.int32),
            area_row=kept.array(nodes.area_row, np.int64),
            block_first=kept.array(nodes.blocks.first, np.int64),
            silent=self._table(known.silent.begin),
            silent_end=kept.array(known.silent.end, np.uint64),
            dead=self._table(known.stacks.dead_frame),
            dead_part=kept.array(known.stacks.dead_part, np.int64),
            stale=self._table(known.stale),
            map=self._table(nodes.map.start),
            map_end=kept.array(nodes.map.end, np.uint64),
            map_pfn=kept.array(nodes.map.pfn, np.int64),
            links=kept.array(np.array(known.links, np.uint64), np.uint64),
            links_count=len(known.links),
            bookkeeping=kept.array(known.bookkeeping, np.uint8),
            bookkeeping_word=known.bookkeeping_word,
            vector=known.vector,
        )


def _area_nodes(nodes: Nodes) -> NDArray[np.int32]:
    """Of each area the node that it is, -1 where it is none."""
    found = np.full(len(nodes.areas.start), -1, np.int32)
    found[nodes.area_row] = nodes.first_area + np.arange(len(nodes.area_row), dtype=np.int32)
    return found

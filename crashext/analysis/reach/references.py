"""Every word of kernel memory that points into a slab object.

A word in an allocated object is an edge from that object; a word anywhere else that the kernel
uses is a root. Interior pointers count. Free pages, user pages, free slots, pads, slab metadata
and the dead parts of stacks point at nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.scan import KERNEL_USES, readable_frames, scan_memory
from crashext.analysis.reach.silent import silent_words
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.addresses import PAGE_SHIFT
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

_ROOTS_KEPT = 4  # words that are remembered for each object they point at
_ALLOCATED = (FrameUse.SLAB, FrameUse.KERNEL)
BOOKKEEPING = ("kmemleak_object", "kmemleak_scan_area")
"""Caches whose objects point at every object there is, for reasons of their own."""
_WORD = (1 << 64) - 1
_NOT_REFERENCES = (("task_struct", "last_wakee"),)
"""Members that keep an address without holding what is there: (cache and struct, member)."""


@dataclass(frozen=True)
class Coverage:
    """How much of kernel memory the pass saw."""

    present: int
    """Page frames of kernel memory that were read."""
    missing: int
    """Page frames that the kernel allocated and that are not in the dump."""
    missing_slab: int
    """Those of them that belong to slabs."""
    bytes_read: int


@dataclass(frozen=True)
class References:
    """Who points at allocated objects. Slots are numbers in a `SlotTable`."""

    source: NDArray[np.int32]
    """int32[edges], ascending: the object that holds the word."""
    target: NDArray[np.int32]
    """int32[edges]: the object that the word points into."""
    root_at: Words
    """uint64[roots]: direct-map offset of a word outside objects, ascending."""
    root_target: NDArray[np.int32]
    """int32[roots]; a few words are kept for each object."""
    dead_at: Words
    """uint64[n]: the same, for words in dead parts of stacks, which count for nothing."""
    dead_target: NDArray[np.int32]
    roots: int
    """Root words in all."""
    coverage: Coverage


def find_references(
    view: KernelView,
    table: SlotTable,
    frames: Frames,
    stacks: Stacks,
    present: Mask | None,
    progress: Progress,
) -> References:
    """The pass. Memory is 8 bytes an edge and 12 a kept root."""
    readable = readable_frames(view, frames, present, *KERNEL_USES)
    total = int(readable.sum())
    scanner = _Pointers(view, table, stacks, readable)
    readable = readable.copy()
    readable[scan_memory(view, readable, present, [scanner], progress, "pointers")] = False
    seen = frames.use[readable]
    # Reserved page frames that the dump lacks are holes between banks of memory: no dump has them.
    missing = frames.count(*_ALLOCATED) - int(np.isin(seen, _ALLOCATED).sum())
    missing_slab = frames.count(FrameUse.SLAB) - int((seen == FrameUse.SLAB).sum())
    return scanner.result(Coverage(len(seen), missing, missing_slab, total << PAGE_SHIFT))


class _Pointers:
    """The scanner for pointers to objects, and what it found so far."""

    def __init__(self, view: KernelView, table: SlotTable, stacks: Stacks, wanted: Mask) -> None:
        self._table, self._stacks, self._wanted = table, stacks, wanted
        self._silent = silent_words(view, table)
        self._start = np.uint64(view.space.direct.start)
        self._limit = np.uint64(len(table.row_of_page) << PAGE_SHIFT)
        ignored = [i for i, c in enumerate(view.caches.all) if c.name in BOOKKEEPING]
        self._ignored = np.isin(table.index.cache, np.array(ignored, np.uint16))
        self._any_ignored = bool(self._ignored.any())
        # RCU's list of callbacks runs through those of them that wait to be freed.
        record = view.host.layout("struct kmemleak_object")
        self._rcu = record["rcu"].offset if record is not None and "rcu" in record else -1 & _WORD
        self._hints = _hints(view)
        self._edges: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        self._rooted: list[tuple[Words, NDArray[np.int32]]] = []
        self._dead: list[tuple[Words, NDArray[np.int32]]] = []
        self._kept = np.zeros(table.count, np.uint8)
        self._roots = 0

    def look(self, offset: int, words: Words) -> None:
        """Take in words that begin at direct-map `offset`."""
        offsets = words - self._start
        at = np.flatnonzero(offsets < self._limit)
        if len(at):
            self._pointers(offset + 8 * at, offsets[at])

    def _pointers(self, where: NDArray[np.int64], offsets: Words) -> None:
        """Words at `where` that point at direct-map `offsets`; most lead to no object."""
        table = self._table
        target, _ = table.locate(offsets)
        good = (target >= 0) & self._wanted[where >> PAGE_SHIFT]
        good[good] = table.state[target[good]] == State.ALLOCATED
        at, to = where[good].astype(np.uint64), target[good].astype(np.int32)
        in_slab = table.row_of_page[where[good] >> PAGE_SHIFT] >= 0
        if in_slab.any():
            self._in_slabs(at[in_slab], to[in_slab])
        if not in_slab.all():
            self._outside(at[~in_slab], to[~in_slab])

    def _in_slabs(self, where: Words, target: NDArray[np.int32]) -> None:
        table = self._table
        source, within = table.locate(where)
        held = (source >= 0) & ~self._silent.holds(where)
        for cache, offset in self._hints:
            at = np.flatnonzero(within == np.uint64(offset))
            held[at[table.caches(np.maximum(source[at], 0)) == cache]] = False
        if self._any_ignored:
            record = self._ignored[
                table.row_of_page[(where >> np.uint64(PAGE_SHIFT)).astype(np.intp)]
            ]
            held &= ~record | (within == np.uint64(self._rcu))
        state = table.state[np.maximum(source, 0)]
        edge = held & (state == State.ALLOCATED) & (source != target)
        self._edges.append((source[edge].astype(np.int32), target[edge]))
        # What may be free and may be not speaks for what it points at.
        unknown = held & (state == State.UNKNOWN)
        if unknown.any():
            self._outside(where[unknown], target[unknown])

    def _outside(self, where: Words, target: NDArray[np.int32]) -> None:
        dead = self._stacks.dead(where)
        if dead.any():
            self._dead.append((where[dead], target[dead]))
            where, target = where[~dead], target[~dead]
        self._roots += len(target)
        fresh = self._kept[target] < _ROOTS_KEPT
        where, target = where[fresh], target[fresh]
        once, first = np.unique(target, return_index=True)
        self._kept[once] += 1
        self._rooted.append((where[first], once))

    def result(self, coverage: Coverage) -> References:
        edges = _joined(self._edges)
        if len(edges[0]) and not (edges[0][1:] >= edges[0][:-1]).all():
            order = np.argsort(edges[0], kind="stable")  # blocks of memory out of order
            edges = edges[0][order], edges[1][order]
        root_at, root_target = _placed(self._rooted)
        dead_at, dead_target = _placed(self._dead)
        return References(*edges, root_at, root_target, dead_at, dead_target, self._roots, coverage)


def _hints(view: KernelView) -> list[tuple[int, int]]:
    """(cache index, offset in its objects) of members that are no references, on this kernel."""
    found = []
    for name, member in _NOT_REFERENCES:
        cache, layout = view.caches.find(name), view.host.layout(f"struct {name}")
        if cache is not None and layout is not None and member in layout:
            found.append((view.caches.index(cache), layout[member].offset))
    return found


def _joined(
    pieces: list[tuple[NDArray[np.int32], NDArray[np.int32]]],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Both columns in one array each; the pieces are given up on the way, to need half as much."""
    total = sum(len(s) for s, _ in pieces)
    source, target = np.empty(total, np.int32), np.empty(total, np.int32)
    empty, at = np.zeros(0, np.int32), 0
    for i, (s, t) in enumerate(pieces):
        source[at : at + len(s)], target[at : at + len(s)] = s, t
        at += len(s)
        pieces[i] = (empty, empty)
    return source, target


def _placed(
    pieces: list[tuple[Words, NDArray[np.int32]]],
) -> tuple[Words, NDArray[np.int32]]:
    where = np.concatenate([np.zeros(0, np.uint64), *(w for w, _ in pieces)])
    target = np.concatenate([np.zeros(0, np.int32), *(t for _, t in pieces)])
    order = np.argsort(where, kind="stable")
    return where[order], target[order]


def neighbours(
    sources: NDArray[np.int32], targets: NDArray[np.int32], of: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Targets of all edges whose source is in `of`, and for each which of `of` it came from.

    `sources` is ascending. Returns int32[m] and int64[m].
    """
    low = np.searchsorted(sources, of, side="left")
    count = np.searchsorted(sources, of, side="right") - low
    origin = np.repeat(np.arange(len(of)), count)
    begin = np.repeat(low - (np.cumsum(count) - count), count)
    return targets[begin + np.arange(len(origin))], origin

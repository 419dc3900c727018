"""Every slot of every slab as one row of numbers, and which slot an address is in.

Slots are numbered in address order. It holds one byte a slot and one number a page, so that a
machine's tens of millions of objects fit into memory; object content is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame, spread
from crashext.kernel.compiled import SlotLoops, library
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.store import Store
from crashext.wording import plural

Slots = NDArray[np.int64]
Bytes32 = NDArray[np.uint32]

_PIECE = 1 << 16
_AT_ONCE, _RUNS = 1 << 20, 1 << 14
MAX_SLOTS = (1 << 31) - 2  # slot numbers are int32 where there are many of them


@dataclass(frozen=True)
class SlotTable:
    """All slots of a complete slab index."""

    index: SlabIndex
    first: Slots
    """int64[slabs + 1]: number of each slab's first slot; the last is how many there are."""
    state: NDArray[np.uint8]
    """uint8[slots] of `State`."""
    size: Bytes32
    """uint32[slabs]: bytes of a slot."""
    pad: Bytes32
    """uint32[slabs]: bytes before the object in its slot."""
    length: Bytes32
    """uint32[slabs]: bytes of an object."""
    start: int
    """Direct-map address of page frame 0."""
    row_of_page: ByFrame[np.int32]
    """Row of the slab that has the page, -1 where none has."""
    store: Store
    """Where `state` is."""
    broken: int
    """Slabs whose freelist is broken: their slots that are not known to be free are UNKNOWN."""
    page_shift: int

    @property
    def count(self) -> int:
        return int(self.first[-1])

    def locate(self, offsets: Words) -> tuple[Slots, Words]:
        """Slots that addresses are in, and where in the object: int64[n], uint64[n].

        `offsets` are from the start of the direct map, below its end. The slot is -1 where no
        object is, pads and metadata included.
        """
        if self.loops is not None:
            return self.loops.locate(offsets)
        row = self.row_of_page[(offsets >> np.uint64(self.page_shift)).astype(np.intp)]
        slots, within = np.full(len(row), -1, np.int64), np.zeros(len(row), np.uint64)
        some = np.flatnonzero(row >= 0)
        at = row[some]
        begin, size, length, objects = self._grid
        inside = offsets[some].astype(np.int64) - begin[at]
        each = size[at]
        # Exact: both are far below 2^53, and no quotient is within rounding of a whole number.
        number = np.floor(inside / each)
        beside = inside - (number * each).astype(np.int64)
        good = (inside >= 0) & (beside < length[at]) & (number < objects[at])
        which = np.flatnonzero(good)
        slots[some[which]] = self.first[at[which]] + number[which].astype(np.int64)
        within[some] = beside
        return slots, within

    @cached_property
    def loops(self) -> SlotLoops | None:
        """The same, compiled."""
        known = library()
        if known is None:
            return None
        begin, objects = self._begin, self.index.objects
        grid = (begin, self.size, self.length, objects, self.first)
        return SlotLoops(known, self.row_of_page, *grid, self.page_shift)

    @cached_property
    def _grid(self) -> tuple[Slots, NDArray[np.float64], NDArray[np.int32], NDArray[np.int32]]:
        """Of each slab the direct-map offset of its first object, and bytes of a slot, bytes of
        an object, and objects: as narrow as they may be, for they are looked up at random."""
        sizes = self.size.astype(np.float64), self.length.astype(np.int32)
        return self._begin, *sizes, self.index.objects.astype(np.int32)

    @cached_property
    def _begin(self) -> Slots:
        return (self.index.address - np.uint64(self.start) + self.pad).view(np.int64)

    def rows(self, slots: Slots) -> NDArray[np.int64]:
        """Rows of the slabs that slots are in: int64[n] -> int64[n]."""
        return np.searchsorted(self.first, slots, side="right").astype(np.int64) - 1

    def addresses(self, slots: Slots) -> Words:
        """Where the slots' objects begin: int64[n] -> uint64[n]."""
        row = self.rows(slots)
        number = (slots - self.first[row]).astype(np.uint64)
        return self.index.address[row] + self.pad[row] + number * self.size[row]

    def caches(self, slots: Slots) -> NDArray[np.uint16]:
        """Indices into `Caches.all` of the slots' caches."""
        found = np.empty(len(slots), np.uint16)
        for at in range(0, len(slots), _PIECE):
            piece = slice(at, at + _PIECE)
            found[piece] = self.index.cache[self.rows(slots[piece])]
        return found

    def in_state(self, state: State, caches: int) -> Slots:
        """How many slots of each of so many caches are in a state: int64[caches]."""
        sums, row = np.zeros(caches, np.int64), 0
        while row < len(self.first) - 1:  # some at a time: there may be many millions
            begin = int(self.first[row])
            end = int(np.searchsorted(self.first, begin + _AT_ONCE, side="right")) - 1
            end = max(row + 1, end)
            held = self.state[begin : int(self.first[end])] == state
            counts = np.add.reduceat(held, self.first[row:end] - begin, dtype=np.int64)
            of = self.index.cache[row:end]
            sums += np.bincount(of, counts, minlength=caches).astype(np.int64)
            self.store.release()
            row = end
        return sums

    def at(self, addresses: Words) -> Slots:
        """Slots whose objects hold the addresses, -1 elsewhere: uint64[n] -> int64[n]."""
        offsets = addresses - np.uint64(self.start)
        found = np.full(len(addresses), -1, np.int64)
        inside = offsets < np.uint64(len(self.row_of_page) << self.page_shift)
        found[inside] = self.locate(offsets[inside])[0]
        return found


def slot_table(
    view: KernelView,
    present: ByFrame[np.bool_] | None,
    progress: Progress,
    index: SlabIndex,
    store: Store | None = None,
) -> SlotTable:
    """Find the state of every slot of the slabs in `index`; it is kept in `store`.

    `present` says which page frames the dump holds (None: it cannot say). Only slabs that are not
    full by their counters are read: a full slab has no free slot, unless a CPU allocates from it
    or a sheaf holds some.
    """
    sizes, pads, lengths = (
        np.array(values, np.uint32)[index.cache]
        for values in (
            [c.slot_size for c in view.caches.all],
            [c.red_left_pad for c in view.caches.all],
            [c.object_size for c in view.caches.all],
        )
    )
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(index.objects, dtype=np.int64)])
    if first[-1] > MAX_SLOTS:
        raise MemoryError(f"{plural(int(first[-1]), 'slot')}")
    store = store or Store()
    state = store.filled(int(first[-1]), np.uint8, State.ALLOCATED)
    start = view.space.direct.start
    row_of_page = _pages(view, index)
    broken = 0
    caches = distinct(index.cache).tolist()
    for done, number in enumerate(caches, 1):
        cache = view.caches.all[number]
        reader = view.reader(cache)
        rows = index.rows_of(number)
        some = index.inuse[rows] != index.objects[rows]
        some |= np.isin(rows, index.locate(reader.sheaved, view.caches))
        some |= np.isin(rows, reader.cpu_slab_rows(index))
        for batch in reader.read(index, rows[some]):
            begin = first[np.searchsorted(index.address, batch.base)]
            width = batch.state.shape[1]
            state[begin[:, None] + np.arange(width)[None]] = batch.state
            broken += int(batch.broken.sum())
        progress("free slots", done, len(caches))
    if present is not None:
        _forget_missing(
            row_of_page, present, index, first, sizes, start, view.space.page_shift, state
        )
    return SlotTable(
        index,
        first,
        state,
        sizes,
        pads,
        lengths,
        start,
        row_of_page,
        store,
        broken,
        view.space.page_shift,
    )


def _pages(view: KernelView, index: SlabIndex) -> ByFrame[np.int32]:
    frames = (view.space.direct.end - view.space.direct.start) >> view.space.page_shift
    row_of_page: ByFrame[np.int32] = ByFrame.filled(frames, np.int32(-1))
    pfns = (index.page - np.uint64(view.space.direct.start)) >> np.uint64(view.space.page_shift)
    for span in distinct(index.pages).tolist():
        every = np.flatnonzero(index.pages == span)
        for rows in (every[at : at + _PIECE] for at in range(0, len(every), _PIECE)):
            pages = pfns[rows, None].astype(np.int64) + np.arange(span)[None]
            good = pages < frames
            numbers = np.broadcast_to(rows[:, None], pages.shape)
            row_of_page.set(pages[good], numbers[good].astype(np.int32))
    return row_of_page


def _forget_missing(
    row_of_page: ByFrame[np.int32],
    present: ByFrame[np.bool_],
    index: SlabIndex,
    first: Slots,
    sizes: Bytes32,
    start: int,
    shift: int,
    state: NDArray[np.uint8],
) -> None:
    """Slots that touch a page which is not in the dump are unreadable."""
    runs = row_of_page.map(lambda row: row >= 0).runs()
    found = [np.zeros(0, np.int64)]
    for at in range(0, len(runs), _RUNS):
        pages = spread(*runs[at : at + _RUNS].T)
        held = pages < len(present)
        held[held] = present[pages[held]]
        found.append(pages[~held])
    lost = np.concatenate(found)
    for some in (lost[at : at + _PIECE] for at in range(0, len(lost), _PIECE)):
        rows = row_of_page[some]
        inside = (some << shift) - (index.address[rows] - np.uint64(start)).astype(np.int64)
        size = sizes[rows].astype(np.int64)
        low = np.maximum(inside // size, 0)
        high = np.minimum(-(-(inside + (1 << shift)) // size), index.objects[rows].astype(np.int64))
        count = np.maximum(high - low, 0)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        state[np.repeat(first[rows] + low, count) + number] = State.UNREADABLE

"""Whether words that name lost blocks by a physical address are addresses, or numbers by chance.

A bitmap, a device number, a timer's flags, a size of 64 MiB or where DAMON divides memory looks
like the address of a page. Where much is lost, such numbers hit what is: of 4,096 lost blocks of a
256 MiB guest seven, on 7.2; of large blocks more, which begin at numbers as round. There a word
alone says nothing. It counts where the words of its object or page name lost blocks more often than
chance does, or memory in use rather than free memory, or where the same place of its cache's
objects does. Where little is lost each word counts: what hits that, knows it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes
from crashext.hosts.base import Mask, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.slab.objects import State

_CHANCE = 0.01
_FEW = 8  # lost blocks that begin at numbers as round; fewer give no share
_ORDERS = 11  # a multiple of so many powers of two of pages is how round a number is
_MOST_READ = 1 << 20  # bytes of an area or block; of larger ones a page
_MOST_OBJECTS = 4096
_EITHER = (FrameUse.ABSENT, FrameUse.RESERVED, FrameUse.UNKNOWN)
"""Named by addresses and by numbers, as the first megabytes are, where small numbers lead."""


class Chance:
    """How often numbers name lost blocks, and memory in use."""

    def __init__(self, nodes: Nodes, frames: Frames, lost: NDArray[np.int64]) -> None:
        """`lost` are the page frames that lost blocks begin with, ascending."""
        self._nodes, self._use, self._lost = nodes, frames.use, lost
        self._shift = nodes.view.space.page_shift
        of_use = frames.use.tally(len(FrameUse))
        free = int(of_use[FrameUse.FREE])
        used = int(of_use.sum() - of_use[[*_EITHER]].sum()) - free
        self._used = used / max(1, used + free)
        count = np.array([np.count_nonzero(lost & (1 << n) - 1 == 0) for n in range(_ORDERS)])
        self._lost_share = count / np.maximum(1, len(frames.use) >> np.arange(_ORDERS))
        self._likely = (self._lost_share >= _CHANCE) & (count >= _FEW)

    def counts(self, at: Words, frame: NDArray[np.int32], holder: NDArray[np.int32]) -> Mask:
        """Which of some words count, at direct-map offsets, in nodes or outside of all, -1, that
        name such page frames."""
        kept = ~self._likely[_orders(frame)]
        known: dict[tuple[int, int], bool | None] = {}
        for i in np.flatnonzero(~kept).tolist():
            node, where = int(holder[i]), int(at[i])
            if 0 <= node < self._nodes.first_area:
                # First, as a million objects of one cache have one answer.
                cache, inside = place = self._place(node, where)
                if place not in known:
                    known[place] = self._addresses(self._words_at(cache, inside))
                kept[i] = known[place]
            for piece in self._pieces(node, where) if not kept[i] else ():
                if piece not in known:
                    words = self._words_of(piece)
                    known[piece] = None if words is None else self._addresses(words)
                if known[piece] is not None:
                    kept[i] = known[piece]
                    break
        return np.asarray(kept, np.bool_)

    def _addresses(self, words: Words) -> bool:
        """Whether some words name too much for numbers; each number is looked at once."""
        frames = np.unique(words[words & np.uint64((1 << self._shift) - 1) == 0])
        frames = (frames >> np.uint64(self._shift)).astype(np.int64)
        frames = frames[(frames > 0) & (frames < len(self._use))]
        if not len(frames):
            return False
        lost = self._is_lost(frames)
        if _beyond_chance(lost, float(self._lost_share[_orders(frames)].mean())):
            return True
        use = self._use[frames]
        return _beyond_chance((use != FrameUse.FREE)[~np.isin(use, _EITHER)], self._used)

    def _is_lost(self, frames: NDArray[np.int64]) -> Mask:
        """numpy's isin() goes through all that is lost for a handful of words."""
        if not len(self._lost):
            return np.zeros(len(frames), np.bool_)
        near = np.minimum(np.searchsorted(self._lost, frames), len(self._lost) - 1)
        return np.asarray(self._lost[near] == frames, np.bool_)

    def _pieces(self, node: int, where: int) -> Iterator[tuple[int, int]]:
        """(address, bytes) of a node, unless only its beginning would be read; then of the page at
        a direct-map offset, which was in the dump."""
        if node >= 0:
            one = np.array([node], np.int64)
            begin, length = int(self._nodes.addresses(one)[0]), int(self._nodes.bytes(one)[0])
            if 0 < length <= _MOST_READ:
                yield begin, length & ~7
        yield self._nodes.table.start + (where >> self._shift << self._shift), 1 << self._shift

    def _words_of(self, piece: tuple[int, int]) -> Words | None:
        """None where some is not in the dump."""
        try:
            return np.frombuffer(self._nodes.view.host.read(*piece), "<u8")
        except ReadFault:
            return None

    def _place(self, slot: int, where: int) -> tuple[int, int]:
        """The index of its cache, and where in the object."""
        table, one = self._nodes.table, np.array([slot], np.int64)
        inside = where + table.start - int(table.addresses(one)[0])
        return int(table.caches(one)[0]), inside

    def _words_at(self, cache: int, inside: int) -> Words:
        """What a cache's allocated objects have in one place: of very many some, spread."""
        table = self._nodes.table
        rows = table.index.rows_of(cache)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MOST_OBJECTS).astype(np.intp))]
        slots = np.concatenate([np.arange(*table.first[row : row + 2].tolist()) for row in rows])
        slots = slots[table.state[slots] == State.ALLOCATED]
        slots = slots[np.unique(np.linspace(0, len(slots) - 1, _MOST_OBJECTS).astype(np.intp))]
        at = table.addresses(slots) + np.uint64(inside)
        values, ok = self._nodes.view.host.read_many(at, 8)
        found: Words = np.ascontiguousarray(values[ok]).view("<u8").reshape(-1)
        return found


def _orders(frames: NDArray[np.signedinteger]) -> NDArray[np.intp]:
    """How round some numbers are."""
    low = frames.astype(np.int64) & -frames.astype(np.int64)
    order = np.log2(np.maximum(low, 1)).astype(np.intp)
    return np.minimum(np.where(low > 0, order, _ORDERS - 1), _ORDERS - 1)


def _beyond_chance(hits: NDArray[np.bool_], share: float) -> bool:
    """Whether as many hits or more are so unlikely where each would be one with this chance."""
    tries, least = len(hits), int(np.count_nonzero(hits))
    if not least or share >= 1:
        return False
    if share <= 0:
        return True
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, tries + 1))))
    n = np.arange(least, tries + 1)
    ways = log_factorial[tries] - log_factorial[n] - log_factorial[tries - n]
    each = np.exp(ways + n * np.log(share) + (tries - n) * np.log1p(-share))
    return float(each.sum()) < _CHANCE

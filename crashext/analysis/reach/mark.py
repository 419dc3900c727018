"""Which objects can be reached from where: marking over the graph of references, level by level.

Wide levels are arrays; narrow ones (long lists) go object by object, because a list of a million
entries is a million levels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import BySource, neighbours
from crashext.analysis.reach.references import References
from crashext.distinct import distinct
from crashext.store import Column, Store

_NARROW = 96  # entries of a level below which Python is faster than numpy (about 60 us a level)
_WIDE = 1 << 17  # entries of a level that are followed at once
_EDGES = 1 << 18  # of them
_PIECE = 1 << 20
_ROUNDS = 1 << 10
_PARTS = 4  # so much less at once where edges are in files: every page of them counts
_SCATTERED = 1 << 14  # values that may each be in another page of a file

Slots32 = NDArray[np.int32]


class Marks:
    """Which slots were reached, and through which other slot. `via` is -1 for a starting slot."""

    def __init__(self, slots: int, store: Store | None = None) -> None:
        """`store` is where what there is much of is: edges and `via`."""
        self.store = store or Store()
        self.reached = np.zeros(slots, np.bool_)
        self.via: Slots32 = self.store.filled(slots, np.int32, -1)

    def led(self, nodes: Slots32, above: Slots32) -> Slots32:
        """Nodes were reached, each through the first of those `above`; the nodes, each once.

        They may lie anywhere in `via`.
        """
        if not self.store.on_disk:
            # Of several values for one place the last is what stays.
            self.via[nodes[::-1]] = above[::-1]
            return distinct(nodes)
        nodes, first = np.unique(nodes, return_index=True)
        above = above[first]
        for begin in range(0, len(nodes), _SCATTERED):
            piece = slice(begin, begin + _SCATTERED)
            self.via[nodes[piece]] = above[piece]
            self.store.release()
        return nodes


def mark(marks: Marks, sources: Slots32, targets: Slots32, start: NDArray[np.int32]) -> None:
    """Reach everything that can be reached from `start`, adding to `marks`.

    `sources` is ascending; `targets[i]` is what `sources[i]` points at.
    """
    level = distinct(start[~marks.reached[start]])
    marks.reached[level] = True
    _levels(marks, sources, targets, level)


def extend(marks: Marks, sources: Slots32, targets: Slots32) -> bool:
    """Reach what more can be reached over these edges from what is; whether there was any."""
    reached, any_more = marks.reached, False
    for begin in range(0, len(sources), _PIECE):
        source, target = sources[begin : begin + _PIECE], targets[begin : begin + _PIECE]
        marks.store.release()
        fresh = reached[source] & ~reached[target]
        if not fresh.any():
            continue
        level = marks.led(target[fresh], source[fresh])
        reached[level] = True
        _levels(marks, sources, targets, level)
        any_more = True
    return any_more


def mark_pages(marks: Marks, references: References, start: NDArray[np.int32]) -> None:
    """Go on from `start` and from all that is reached, over pointers to struct pages as well."""
    mark(marks, references.page_source, references.page_target, start)
    for _ in range(_ROUNDS):
        more = extend(marks, references.page_source, references.page_target)
        if not extend(marks, references.source, references.target) and not more:
            break


def _levels(marks: Marks, sources: Slots32, targets: Slots32, level: NDArray[np.int32]) -> None:
    reached, by_source = marks.reached, None
    while len(level):
        if len(level) <= _NARROW:
            level = _narrow(marks, sources, targets, level.tolist())
            continue
        following = _Level(marks.store)
        by_source = by_source or BySource(sources, marks.store)
        parts = _PARTS if marks.store.on_disk else 1
        for some, low, count in _pieces(by_source, level, _WIDE // parts, _EDGES // parts):
            found, origin = neighbours(targets, low, count)
            fresh = ~reached[found]
            found = marks.led(found[fresh], some[origin[fresh]])
            reached[found] = True
            following.add(found)
            marks.store.release()
        level = following.nodes()


class _Level:
    """Nodes that are found piece by piece: each piece is ascending."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._few: list[Slots32] = []
        self._many: Column | None = None
        self._waiting = 0

    def add(self, found: Slots32) -> None:
        """Nodes that are in no other piece."""
        self._few.append(found)
        self._waiting += len(found)
        if self._store.on_disk and self._waiting > _EDGES:
            self._many = self._many or self._store.growing(np.int32)
            self._many.add(np.concatenate(self._few))
            self._few, self._waiting = [], 0

    def nodes(self) -> Slots32:
        """All of them: ascending, if they are few."""
        if self._many is not None:
            self._many.add(np.concatenate([np.zeros(0, np.int32), *self._few]))
            return self._many.array()
        return self._few[0] if len(self._few) == 1 else np.sort(np.concatenate(self._few))


def _pieces(
    by_source: BySource, level: NDArray[np.int32], wide: int, most: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]]:
    """A level in pieces of few nodes and few edges: a hundred thousand nodes may have millions.

    With each node its first edge and how many it has.
    """
    for begin in range(0, len(level), wide):
        some = level[begin : begin + wide]
        low, count = by_source.of(some)
        edges = np.cumsum(count)
        ends = np.searchsorted(edges, np.arange(most, edges[-1], most)).tolist()
        for first, end in pairwise((0, *ends, len(some))):
            yield some[first:end], low[first:end], count[first:end]


def _narrow(
    marks: Marks, sources: Slots32, targets: Slots32, level: list[int]
) -> NDArray[np.int32]:
    """Go on object by object until a level is wide or empty; returns that level."""
    reached, via = marks.reached.view(np.uint8).data, marks.via.data
    source_view, target_view = sources.data, targets.data
    edges = len(source_view)
    while level and len(level) <= _NARROW:
        following: list[int] = []
        for slot in level:
            at = bisect_left(source_view, slot)
            while at < edges and source_view[at] == slot:
                target = target_view[at]
                at += 1
                if not reached[target]:
                    reached[target] = 1
                    via[target] = slot
                    following.append(target)
        level = following
    return np.array(level, np.int32)

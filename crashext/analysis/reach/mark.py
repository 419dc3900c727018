"""Which objects can be reached from where: marking over the graph of references, level by level.

Wide levels are arrays; narrow ones (long lists) go object by object, because a list of a million
entries is a million levels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import neighbours
from crashext.analysis.reach.references import References
from crashext.distinct import distinct

_NARROW = 96  # entries of a level below which Python is faster than numpy (about 60 us a level)
_WIDE = 1 << 17  # entries of a level that are followed at once
_EDGES = 1 << 18  # of them
_PIECE = 1 << 20
_ROUNDS = 1 << 10

Slots32 = NDArray[np.int32]


class Marks:
    """Which slots were reached, and through which other slot. `via` is -1 for a starting slot."""

    def __init__(self, slots: int) -> None:
        self.reached = np.zeros(slots, np.bool_)
        self.via = np.full(slots, -1, np.int32)


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
        fresh = reached[source] & ~reached[target]
        if not fresh.any():
            continue
        level, first = np.unique(target[fresh], return_index=True)
        reached[level], marks.via[level] = True, source[fresh][first]
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
    reached, via = marks.reached, marks.via
    while len(level):
        if len(level) <= _NARROW:
            level = _narrow(marks, sources, targets, level.tolist())
            continue
        following = []
        for some in _pieces(sources, level):
            found, origin = neighbours(sources, targets, some)
            fresh = ~reached[found]
            found, first = np.unique(found[fresh], return_index=True)
            reached[found] = True
            via[found] = some[origin[fresh][first]]
            following.append(found)
        level = following[0] if len(following) == 1 else np.sort(np.concatenate(following))


def _pieces(sources: Slots32, level: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """A level in pieces of few nodes and few edges: a hundred thousand nodes may have millions."""
    for begin in range(0, len(level), _WIDE):
        some = level[begin : begin + _WIDE]
        edges = np.searchsorted(sources, some, side="right")
        edges = np.cumsum(edges - np.searchsorted(sources, some, side="left"))
        yield from np.split(some, np.searchsorted(edges, np.arange(_EDGES, edges[-1], _EDGES)))


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

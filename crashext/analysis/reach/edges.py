"""Arrays of edges, of which pieces come in one by one: source and target of each, int32[n]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes32
from crashext.growing import Growing
from crashext.kernel.access import Words


class Edges:
    """Edges as the pass finds them.

    Memory is read in order, and slots are numbered in it: their edges come by source. Those of
    areas and of blocks of pages do not, and are sorted apart, as sorting needs as much again.
    """

    def __init__(self, slots: int) -> None:
        """Nodes from `slots` on are no slots."""
        self._slots = slots
        self._source, self._target = Growing(np.int32), Growing(np.int32)
        self._beyond = (Growing(np.int32), Growing(np.int32))

    def add(self, source: Nodes32, target: Nodes32) -> None:
        """Some edges more."""
        beyond = source >= self._slots
        if beyond.any():
            self._beyond[0].add(source[beyond])
            self._beyond[1].add(target[beyond])
            source, target = source[~beyond], target[~beyond]
        self._source.add(source)
        self._target.add(target)

    def ordered(self) -> tuple[Nodes32, Nodes32]:
        """All of them, by source; those of one source as they came. Asked for once, at the end."""
        source, target = self._beyond[0].array(), self._beyond[1].array()
        order = np.argsort(source, kind="stable")
        self._source.add(source[order])
        self._target.add(target[order])
        return self._source.array(), self._target.array()


def placed(
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

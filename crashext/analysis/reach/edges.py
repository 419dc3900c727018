"""Arrays of edges, of which pieces come in one by one: source and target of each, int32[n]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes32
from crashext.kernel.access import Words
from crashext.store import Store

_AT_ONCE = 1 << 22
"""Edges that are sorted in memory."""
_NOTED = 1 << 23
"""Edges of which it may be noted where each node's begin: a tenth of the time of looking it up."""


class Edges:
    """Edges as the pass finds them.

    Memory is read in order, and slots are numbered in it: their edges come by source. Those of
    areas and of blocks of pages do not, and are sorted apart, as sorting needs as much again.
    """

    def __init__(self, slots: int, store: Store) -> None:
        """Nodes from `slots` on are no slots."""
        self._slots = slots
        self._source, self._target = store.growing(np.int32), store.growing(np.int32)
        self._beyond = (store.growing(np.int32), store.growing(np.int32))
        self._store = store

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
        if len(source):
            times = np.zeros(int(source.max()) + 2 - self._slots, np.int64)
            for some in _pieces(source):
                times[1:] += np.bincount(some - self._slots, minlength=len(times) - 1)
            before = np.cumsum(times)
            first = 0
            while first < len(before) - 1:
                most = int(np.searchsorted(before, before[first] + _AT_ONCE, side="right")) - 1
                end = max(first + 1, most)
                self._sorted(source, target, self._slots + first, self._slots + end)
                first = end
        return self._source.array(), self._target.array()

    def _sorted(self, source: Nodes32, target: Nodes32, first: int, end: int) -> None:
        """Add the edges of nodes [first, end)."""
        found: list[tuple[Nodes32, Nodes32]] = []
        for some, led in zip(_pieces(source), _pieces(target), strict=True):
            mine = (some >= first) & (some < end)
            found.append((some[mine], led[mine]))
            self._store.release()
        sources = np.concatenate([some for some, _ in found])
        order = np.argsort(sources, kind="stable")
        self._source.add(sources[order])
        self._target.add(np.concatenate([led for _, led in found])[order])


def _pieces(values: Nodes32) -> list[Nodes32]:
    return [values[at : at + _AT_ONCE] for at in range(0, len(values), _AT_ONCE)]


def placed(
    pieces: list[tuple[Words, NDArray[np.int32]]],
) -> tuple[Words, NDArray[np.int32]]:
    where = np.concatenate([np.zeros(0, np.uint64), *(w for w, _ in pieces)])
    target = np.concatenate([np.zeros(0, np.int32), *(t for _, t in pieces)])
    order = np.argsort(where, kind="stable")
    return where[order], target[order]


def sources_into(
    sources: Nodes32, targets: Nodes32, wanted: NDArray[np.bool_], store: Store
) -> Nodes32:
    """Sources of all edges that lead to nodes which are `wanted`, in the order of the edges."""
    found = [np.zeros(0, np.int32)]
    for some, led in zip(_pieces(sources), _pieces(targets), strict=True):
        found.append(some[wanted[led]])
        store.release()
    return np.concatenate(found)


class BySource:
    """The edges of nodes, where edges are ascending by source."""

    def __init__(self, sources: Nodes32, store: Store) -> None:
        """Of edges in memory it is noted where each node's begin: 8 bytes a node that has some."""
        self._sources, self._begin = sources, None
        if len(sources) and not store.on_disk and len(sources) <= _NOTED:
            first = np.flatnonzero(sources[1:] != sources[:-1])
            self._begin = np.concatenate(([0], first + 1, [len(sources)])).astype(np.int32)
            self._sources = sources[self._begin[:-1]]

    def of(self, nodes: Nodes32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each node its first edge, and how many it has."""
        low = np.searchsorted(self._sources, nodes)
        if self._begin is None:
            return low, np.searchsorted(self._sources, nodes, side="right") - low
        some = self._sources[np.minimum(low, len(self._sources) - 1)] == nodes
        begin = self._begin[low].astype(np.int64)
        return begin, np.where(
            some, self._begin[np.minimum(low + 1, len(self._sources))] - begin, 0
        )


def neighbours(
    targets: NDArray[np.int32], low: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Targets of the edges that `BySource` found, and for each which of `of` it came from.

    Returns int32[m] and int64[m].
    """
    origin = np.repeat(np.arange(len(low)), count)
    begin = np.repeat(low - (np.cumsum(count) - count), count)
    return targets[begin + np.arange(len(origin))], origin

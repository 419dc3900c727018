"""Arrays of edges, of which pieces come in one by one: source and target of each, int32[n]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes32
from crashext.kernel.access import Words


def ordered(pieces: list[tuple[Nodes32, Nodes32]]) -> tuple[Nodes32, Nodes32]:
    """All edges, by source."""
    edges = joined(pieces)
    if len(edges[0]) and not (edges[0][1:] >= edges[0][:-1]).all():
        order = np.argsort(edges[0], kind="stable")  # blocks of memory out of order
        edges = edges[0][order], edges[1][order]
    return edges


def joined(
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

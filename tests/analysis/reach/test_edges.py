"""Edges as they come, and as they are kept."""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.edges import Edges
from crashext.store import Store


def test_edges_are_by_source_and_those_of_a_source_as_they_came() -> None:
    rng = np.random.default_rng(2)
    slots, nodes = 1000, 1500
    edges = Edges(slots, Store())
    came: list[tuple[int, int]] = []
    for begin in range(0, slots, 50):
        # Memory is read in order; areas and blocks of pages lie anywhere in it.
        source = np.sort(rng.integers(begin, begin + 50, size=40))
        source = np.where(rng.random(40) < 0.3, rng.integers(slots, nodes, size=40), source)
        target = rng.integers(nodes, size=40)
        edges.add(source.astype(np.int32), target.astype(np.int32))
        came += zip(source.tolist(), target.tolist(), strict=True)
    sources, targets = edges.ordered()
    assert list(zip(sources.tolist(), targets.tolist(), strict=True)) == sorted(
        came, key=lambda edge: edge[0]
    )

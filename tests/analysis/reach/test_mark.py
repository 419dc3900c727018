"""Marking a graph: the same objects as a plain search reaches, whatever the graph looks like."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.reach import edges as edges_module
from crashext.analysis.reach import mark as marking
from crashext.analysis.reach.edges import BySource, neighbours
from crashext.analysis.reach.mark import Marks, mark
from crashext.store import FileStore, Store

Ints = NDArray[np.int32]


def ordered(edges: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Edges (source, target) as the two columns that mark() takes."""
    edges = edges[np.argsort(edges[:, 0], kind="stable")].astype(np.int32)
    return np.ascontiguousarray(edges[:, 0]), np.ascontiguousarray(edges[:, 1])


def plainly(count: int, edges: NDArray[np.int64], start: list[int]) -> set[int]:
    """What can be reached, by a breadth-first search in plain Python."""
    out: dict[int, list[int]] = {}
    for source, target in edges.tolist():
        out.setdefault(source, []).append(target)
    seen, queue = set(start), deque(start)
    while queue:
        for target in out.get(queue.popleft(), ()):
            if target not in seen:
                seen.add(target)
                queue.append(target)
    assert all(0 <= s < count for s in seen)
    return seen


def random_graph(rng: np.random.Generator) -> tuple[int, NDArray[np.int64]]:
    """Sparse, dense, with long lists, wide trees, hubs, rings and self-references."""
    count = int(rng.integers(2, 3000))
    pieces = [rng.integers(0, count, (int(count * rng.choice([0.2, 0.8, 1.5, 4])), 2))]
    if rng.random() < 0.6:  # a list, in any order of addresses
        chain = rng.permutation(count)[: count // 2]
        pieces.append(np.stack([chain[:-1], chain[1:]], axis=1))
    if rng.random() < 0.5:  # a table
        hub = int(rng.integers(count))
        pieces.append(np.stack([np.full(count // 2, hub), rng.integers(0, count, count // 2)], 1))
    if rng.random() < 0.3:  # everything twice
        pieces.append(pieces[0])
    return count, np.concatenate(pieces).astype(np.int64)


@pytest.mark.parametrize("seed", range(60))
def test_the_same_as_a_plain_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, edges = random_graph(rng)
    start = rng.integers(0, count, int(rng.choice([0, 1, 3, 200]))).astype(np.int32)
    marks = Marks(count)
    mark(marks, *ordered(edges), start)
    assert set(np.flatnonzero(marks.reached).tolist()) == plainly(count, edges, start.tolist())
    assert_paths(marks, edges, set(start.tolist()))


def assert_paths(marks: Marks, edges: NDArray[np.int64], start: set[int]) -> None:
    """`via` leads over edges there are, from every reached object to a start, without a ring."""
    there = set(map(tuple, edges.tolist()))
    assert (marks.via[~marks.reached] == -1).all()
    known = set(start)
    for slot in np.flatnonzero(marks.reached).tolist():
        path = []
        while slot not in known:
            path.append(slot)
            above = int(marks.via[slot])
            assert (above, slot) in there
            slot = above
            assert len(path) <= len(marks.via)
        known.update(path)
    assert all(marks.via[s] == -1 for s in start)


@pytest.mark.parametrize("seed", range(10))
def test_marking_on_adds_to_what_is_marked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, edges = random_graph(rng)
    first, second = rng.integers(0, count, (2, 20)).astype(np.int32)
    marks = Marks(count)
    mark(marks, *ordered(edges), first)
    before = marks.reached.copy()
    mark(marks, *ordered(edges), second)
    both = plainly(count, edges, [*first.tolist(), *second.tolist()])
    assert set(np.flatnonzero(marks.reached).tolist()) == both
    assert set(np.flatnonzero(before).tolist()) == plainly(count, edges, first.tolist())


def test_a_list_of_a_million_is_followed_to_its_end() -> None:
    count = 1_000_000
    chain = np.arange(count - 1, dtype=np.int32)
    marks = Marks(count)
    mark(marks, chain, chain + np.int32(1), np.array([0], np.int32))
    assert marks.reached.all()
    assert marks.via[-1] == count - 2


def test_lists_that_begin_in_a_wide_level_and_a_wide_level_at_a_lists_end() -> None:
    """Between the two ways of marking nothing is lost: 500 lists of 300, then a fan of 5,000."""
    lists, length, fan = 500, 300, 5_000
    count = lists * length + fan
    slots = np.arange(lists * length).reshape(lists, length)
    edges = np.stack([slots[:, :-1].reshape(-1), slots[:, 1:].reshape(-1)], axis=1)
    last = np.stack([np.full(fan, slots[7, -1]), lists * length + np.arange(fan)], axis=1)
    marks = Marks(count)
    mark(marks, *ordered(np.concatenate([edges, last])), slots[:, 0].astype(np.int32))
    assert marks.reached.all()
    assert (marks.via[lists * length :] == slots[7, -1]).all()


def test_nothing_to_start_from_reaches_nothing() -> None:
    marks = Marks(5)
    mark(marks, np.array([0, 1], np.int32), np.array([1, 2], np.int32), np.zeros(0, np.int32))
    assert not marks.reached.any()


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_node_is_reached_through_the_first_that_leads_to_it(
    on_disk: bool, tmp_path: Path
) -> None:
    marks = Marks(100_000, FileStore(tmp_path) if on_disk else Store())
    rng = np.random.default_rng(5)
    nodes = rng.integers(100_000, size=60_000).astype(np.int32)
    above = np.arange(60_000, dtype=np.int32)
    first: dict[int, int] = {}
    for node, by in zip(nodes.tolist(), above.tolist(), strict=True):
        first.setdefault(node, by)
    assert marks.led(nodes, above).tolist() == sorted(first)
    assert {n: int(marks.via[n]) for n in first} == first
    assert (marks.via >= 0).sum() == len(first)


@pytest.mark.parametrize("noted", [True, False])
def test_neighbours_say_where_they_came_from(noted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "_NOTED", 100 if noted else 0)
    sources, targets = np.array([1, 1, 4, 7], np.int32), np.array([9, 8, 1, 1], np.int32)
    of = BySource(sources, Store()).of(np.array([4, 2, 1, 0, 9], np.int32))
    found, origin = neighbours(targets, *of)
    assert (found.tolist(), origin.tolist()) == ([1, 9, 8], [0, 2, 2])


def test_where_no_node_has_an_edge_there_is_no_neighbour() -> None:
    none = np.zeros(0, np.int32)
    found, _ = neighbours(none, *BySource(none, Store()).of(np.array([4, 2], np.int32)))
    assert not len(found)


def test_a_wide_level_of_nodes_with_many_edges_each_is_followed_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    edges = rng.integers(4000, size=(60_000, 2))
    start = np.arange(300, dtype=np.int32)
    whole = Marks(4000)
    mark(whole, *ordered(edges), start)
    monkeypatch.setattr(marking, "_WIDE", 100)
    monkeypatch.setattr(marking, "_EDGES", 64)
    pieces = Marks(4000)
    mark(pieces, *ordered(edges), start)
    assert whole.reached.all()
    assert (whole.reached == pieces.reached).all()
    assert (whole.via == pieces.via).all()

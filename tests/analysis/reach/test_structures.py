"""Heads of leaked structures, on random graphs, against plain searches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.reach import structures as module
from crashext.analysis.reach.mark import Marks, mark
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.structures import structures
from crashext.kernel.slab.objects import State
from tests.analysis.reach.test_mark import ordered, plainly, random_graph

SIZES = (32, 96, 512, 6208)


def reached(count: int, edges: NDArray[np.int64], roots: list[int], kinds: list[int]) -> Reach:
    """A marked kernel of `count` objects, each of cache `kinds[i]`, with these references."""
    source, target = ordered(edges)
    marks = Marks(count)
    mark(marks, source, target, np.array(roots, np.int32))
    cache = np.array(kinds, np.int64)
    table = SimpleNamespace(
        count=count,
        state=np.full(count, State.ALLOCATED, np.uint8),
        caches=lambda slots: cache[slots],
    )
    lost = np.flatnonzero(~marks.reached)
    view = SimpleNamespace(caches=SimpleNamespace(all=[_cache(s) for s in SIZES]))
    found = SimpleNamespace(
        references=SimpleNamespace(source=source, target=target),
        marks=marks,
        table=table,
        view=view,
        unreachable=lambda: lost,
    )
    return cast(Reach, found)


def _cache(size: int) -> Any:
    return SimpleNamespace(slot_size=size)


@pytest.mark.parametrize("seed", range(60))
def test_heads_cover_everything_and_none_is_under_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, edges = random_graph(rng)
    edges = edges[edges[:, 0] != edges[:, 1]]  # an object's pointer to itself is no reference
    edges = edges[: int(len(edges) * rng.choice([0.1, 0.3, 1]))]
    roots = rng.integers(0, count, int(rng.choice([0, 2, 50]))).tolist()
    kinds = rng.integers(0, len(SIZES), count).tolist()
    made = reached(count, edges, roots, kinds)
    found = structures(made)
    lost = set(range(count)) - plainly(count, edges, roots)
    assert set(found.slots.tolist()) == lost
    inner = edges[~made.marks.reached[edges].any(axis=1)]
    heads = found.heads.tolist()
    assert plainly(count, inner, heads) == lost  # they cover everything
    under = {h: plainly(count, inner, [h]) for h in rng.permutation(heads)[:20].tolist()}
    for head, below in under.items():
        # A head that another head leads to would be no head, a ring they share included.
        assert not (below & set(heads)) - {head}
    members = dict(zip(found.slots.tolist(), found.head.tolist(), strict=True))
    for slot, head in members.items():
        if head in under:
            assert slot in under[head]
    assert found.unsorted == 0
    pointed = set(inner[:, 1].tolist())
    assert {s for s in lost if s not in pointed} <= set(heads)


@pytest.mark.parametrize("seed", range(20))
def test_of_a_ring_the_largest_object_is_the_head(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, tail = rng.permutation(50), np.arange(50, 60)
    ring = np.stack([order, np.roll(order, -1)], axis=1)
    below = np.stack([rng.choice(order, 10), tail], axis=1)
    kinds = [0] * 60
    big = int(rng.integers(50))
    kinds[big] = 3
    found = structures(reached(60, np.concatenate([ring, below]), [], kinds))
    assert found.heads.tolist() == [big]
    assert set(found.head.tolist()) == {big}


def test_a_ring_below_a_ring_has_no_head_of_its_own() -> None:
    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 3], [3, 2]])
    found = structures(reached(4, edges, [], [0, 0, 3, 3]))
    assert found.heads.tolist() == [0]


def test_two_pointing_at_one_share_it_once() -> None:
    found = structures(reached(3, np.array([[0, 2], [1, 2]]), [], [0, 0, 0]))
    assert found.heads.tolist() == [0, 1]
    assert found.head.tolist()[2] in (0, 1)


def test_too_many_rings_are_heads_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_RINGED", 3)
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    found = structures(reached(4, edges, [], [0] * 4))
    assert (found.heads.tolist(), found.unsorted) == ([0, 1, 2, 3], 4)


def test_nothing_lost_is_nothing() -> None:
    found = structures(reached(3, np.array([[0, 1], [1, 2]]), [0], [0, 0, 0]))
    assert (len(found.slots), len(found.heads)) == (0, 0)


def test_a_long_chain_has_one_head() -> None:
    count = 200_000
    slots = np.random.default_rng(3).permutation(count)
    edges = np.stack([slots[:-1], slots[1:]], axis=1)
    found = structures(reached(count, edges, [], [0] * count))
    assert found.heads.tolist() == [slots[0]]
    assert (found.head == slots[0]).all()

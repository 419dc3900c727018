"""Which objects are one group: by what they are, whatever their pointers and numbers hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.likeness.similarity import Features, Grouping, group, scores
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.settings import DEFAULT_THRESHOLD, METRICS
from crashext.kernel.access import Words

PAGES = 0xFFFF888000000000
EVERY_METRIC = pytest.mark.parametrize("metric", sorted(METRICS))


def pointers(rng: np.random.Generator, n: int) -> Words:
    return np.uint64(PAGES) + rng.integers(0, 1 << 24, n).astype(np.uint64) * np.uint64(64)


def same(value: int, n: int) -> Words:
    return np.full(n, value, np.uint64)


def nodes(rng: np.random.Generator, n: int) -> Words:
    """A list node of a leak: two pointers, an ops table, a serial number."""
    serial = np.arange(n, dtype=np.uint64) + np.uint64(100)
    columns = pointers(rng, n), pointers(rng, n), same(0xFFFFFFFF81A2B3C0, n), serial
    return np.column_stack(columns)


def buffers(rng: np.random.Generator, n: int) -> Words:
    """Another type: flags, two vmalloc addresses, another function."""
    area = np.uint64(0xFFFFC90000000000) + rng.integers(0, 1 << 20, n).astype(np.uint64) * 4096
    columns = same(0xDEAD000000000100, n), area, area, same(0xFFFFFFFF81999990, n)
    return np.column_stack(columns)


def noise(rng: np.random.Generator, n: int, words: int = 4) -> Words:
    return rng.integers(0, 1 << 64, (n, words), np.uint64, endpoint=False)


def classified(values: Words) -> WordMap:
    content = np.ascontiguousarray(values).view(np.uint8)
    at = np.uint64(0x1000) + np.arange(len(values), dtype=np.uint64)
    return Classifier().classify(content, at)


def grouped(
    values: Words, metric: str = "hamming", threshold: float = DEFAULT_THRESHOLD, seed: int = 0
) -> Grouping:
    return group(classified(values), threshold, metric, np.random.default_rng(seed))


def members(found: Grouping) -> list[list[int]]:
    return [c.members.tolist() for c in found.clusters]


@EVERY_METRIC
def test_objects_of_one_type_full_of_differing_pointers_are_one_group(metric: str) -> None:
    rng = np.random.default_rng(1)
    found = grouped(nodes(rng, 200), metric)
    assert members(found) == [list(range(200))]
    assert len(found.alone) == 0
    (cluster,) = found.clusters
    assert (cluster.shapes, cluster.distinct) == (1, 200)
    assert cluster.similarity > 0.9


@EVERY_METRIC
def test_two_types_in_one_sample_are_two_groups_the_larger_first(metric: str) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([buffers(rng, 60), nodes(rng, 140)])
    order = rng.permutation(200)
    found = grouped(values[order], metric)
    assert members(found) == [
        np.flatnonzero(order >= 60).tolist(),
        np.flatnonzero(order < 60).tolist(),
    ]


@EVERY_METRIC
@pytest.mark.parametrize("words", [1, 4, 32])
def test_random_objects_are_no_group(metric: str, words: int) -> None:
    found = grouped(noise(np.random.default_rng(3), 50, words), metric)
    assert sum(len(c.members) for c in found.clusters) <= 4
    assert len(found.alone) >= 46


def test_random_objects_do_not_join_a_group_either() -> None:
    rng = np.random.default_rng(4)
    found = grouped(np.concatenate([nodes(rng, 50), noise(rng, 50)]))
    assert members(found)[0] == list(range(50))
    assert len(found.alone) >= 46


def test_identical_objects_are_one_group_even_if_nothing_is_known_of_their_words() -> None:
    one = noise(np.random.default_rng(5), 2)
    found = grouped(np.repeat(one, [30, 20], axis=0))
    assert members(found) == [list(range(30)), list(range(30, 50))]
    assert [c.distinct for c in found.clusters] == [1, 1]
    assert [c.similarity for c in found.clusters] == [1.0, 1.0]


@EVERY_METRIC
def test_objects_of_zeros_are_a_group_of_their_own(metric: str) -> None:
    zeros = np.zeros((20, 4), np.uint64)
    assert members(grouped(zeros, metric)) == [list(range(20))]
    found = grouped(np.concatenate([zeros, nodes(np.random.default_rng(6), 10)]), metric)
    assert members(found) == [list(range(20)), list(range(20, 30))]


def test_zeros_that_two_objects_share_do_not_make_them_alike() -> None:
    """Most of a large object is zero whatever it is."""
    one, other = np.zeros((1, 64), np.uint64), np.zeros((1, 64), np.uint64)
    one[0, 0], other[0, 0] = 0x1122334455667788, 0x99AABBCCDDEEFF01
    features = Features.of(classified(np.concatenate([one, other])))
    assert scores(features.take(slice(0, 1)), features).tolist() == [1.0, pytest.approx(0.5)]
    assert members(grouped(np.concatenate([one, other]))) == []


@EVERY_METRIC
def test_no_object_and_one_object_are_no_group(metric: str) -> None:
    rng = np.random.default_rng(7)
    nothing, single = grouped(nodes(rng, 0), metric), grouped(nodes(rng, 1), metric)
    assert (nothing.clusters, nothing.alone.tolist()) == ((), [])
    assert (single.clusters, single.alone.tolist()) == ((), [0])


@EVERY_METRIC
def test_the_same_seed_gives_the_same_groups(metric: str) -> None:
    rng = np.random.default_rng(8)
    values = np.concatenate([nodes(rng, 400), buffers(rng, 300), noise(rng, 20)])
    one, same_again = grouped(values, metric, seed=5), grouped(values, metric, seed=5)
    assert members(one) == members(same_again)
    for a, b in zip(one.clusters, same_again.clusters, strict=True):
        assert (a.exemplar, a.similarity, a.shapes) == (b.exemplar, b.similarity, b.shapes)
    other = grouped(values, metric, seed=6)  # the seed may choose another exemplar, no more
    assert members(other) == members(one)


def test_every_object_is_in_one_place() -> None:
    rng = np.random.default_rng(9)
    values = np.concatenate([nodes(rng, 30), buffers(rng, 20), noise(rng, 100)])
    found = grouped(values)
    everywhere = np.concatenate([*(c.members for c in found.clusters), found.alone])
    assert sorted(everywhere.tolist()) == list(range(150))
    assert all(c.exemplar in c.members for c in found.clusters)
    assert found.alone.tolist() == sorted(found.alone.tolist())


def test_the_exemplar_is_the_member_most_like_the_others() -> None:
    values = np.repeat(nodes(np.random.default_rng(10), 1), 9, axis=0)
    values[:4, 3] = np.array([0x7777777701, 0x8888888802, 0x9999999903, 0xAAAAAAAA04], np.uint64)
    (cluster,) = grouped(values).clusters
    assert cluster.exemplar == 4


def test_a_threshold_of_one_asks_for_equality_but_for_where_pointers_lead() -> None:
    values = nodes(np.random.default_rng(11), 40)
    values[:, 3] = np.uint64(0x1234567)
    assert members(grouped(values, threshold=1.0)) == [list(range(40))]
    values[20:, 3] = np.uint64(0x1234568)
    assert members(grouped(values, threshold=1.0)) == [list(range(20)), list(range(20, 40))]


@EVERY_METRIC
def test_likeness_is_mutual_and_whole_only_with_oneself(metric: str) -> None:
    rng = np.random.default_rng(12)
    values = np.concatenate([nodes(rng, 5), buffers(rng, 5), noise(rng, 5), nodes(rng, 1) * 0])
    features = Features.of(classified(values))
    table: NDArray[np.float64] = np.array(
        [scores(features.take(slice(i, i + 1)), features, metric) for i in range(len(values))]
    )
    assert ((table >= 0) & (table <= 1)).all()
    assert np.allclose(table, table.T)
    assert np.allclose(np.diag(table), 1.0)
    assert table[0, 5:].max() < DEFAULT_THRESHOLD < table[0, 1:5].min()


def test_groups_are_limited_and_what_is_over_stays_alone() -> None:
    """70 types, two objects each: 64 groups are made, the rest is not lost."""
    found = grouped(np.repeat(noise(np.random.default_rng(13), 70), 2, axis=0))
    assert len(found.clusters) == 64
    assert len(found.alone) == 12

"""Estimates from clusters: exact where all was counted, honest where it was not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.results.estimate import Estimate, Share, clustered_share

Counts = NDArray[np.int64]


def draw_share(hits: Counts, sizes: Counts, sampled: int, rng: np.random.Generator) -> Share:
    chosen = rng.choice(len(sizes), sampled, replace=False)
    return clustered_share(hits[chosen], sizes[chosen], len(sizes))


def independent(rng: np.random.Generator, share: float, slabs: int, slots: int) -> Counts:
    """Every object for itself."""
    return rng.binomial(slots, share, slabs)


def clustered(rng: np.random.Generator, share: float, slabs: int, slots: int) -> Counts:
    """A leak fills slabs of its own: a slab holds nearly all of it, or nearly nothing."""
    leaky = rng.random(slabs) < share
    return rng.binomial(slots, np.where(leaky, 0.97, 0.02))


@pytest.mark.parametrize("population", [independent, clustered])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(("slabs", "sampled"), [(2000, 100), (300, 60), (100, 80)])
def test_the_interval_contains_the_truth(
    population: object, share: float, slabs: int, sampled: int
) -> None:
    """Nominal 95 %; over 300 populations at least 90 % must hold."""
    assert callable(population)
    rng = np.random.default_rng(round(1000 * share) + slabs)
    held = 0
    for _ in range(300):
        sizes = np.full(slabs, 32, np.int64)
        hits = population(rng, share, slabs, 32)
        found = draw_share(hits, sizes, sampled, rng)
        assert 0 <= found.low <= found.value <= found.high <= 1
        held += found.low <= hits.sum() / sizes.sum() <= found.high
    assert held >= 270


def test_slabs_that_are_not_equally_full_do_not_bias_it() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(300):
        sizes = rng.integers(1, 33, 1000)
        hits = rng.binomial(sizes, np.where(sizes > 24, 0.9, 0.1))
        found = draw_share(hits, sizes, 80, rng)
        held += found.low <= hits.sum() / sizes.sum() <= found.high
    assert held >= 270


def test_intervals_are_no_wider_than_clusters_make_them() -> None:
    """An interval from 0 to 1 would always hold; objects drawn independently allow better."""
    rng = np.random.default_rng(12)
    sizes = np.full(2000, 32, np.int64)
    found = draw_share(independent(rng, 0.5, 2000, 32), sizes, 100, rng)
    assert found.high - found.low < 0.06  # 3200 objects: 1.96 * sqrt(0.25 / 3200) each way
    strong = draw_share(np.where(rng.random(2000) < 0.5, 32, 0), sizes, 100, rng)
    assert 0.15 < strong.high - strong.low < 0.25  # 100 slabs that agree within themselves


@pytest.mark.parametrize("all_hits", [True, False])
def test_when_every_sampled_slab_agrees_the_others_may_not(all_hits: bool) -> None:
    sizes = np.full(50, 32, np.int64)
    found = clustered_share(sizes if all_hits else np.zeros(50, np.int64), sizes, 5000)
    assert found.value == (1.0 if all_hits else 0.0)
    assert 0.9 < found.low <= 1.0 if all_hits else 0.0 < found.high < 0.1
    assert found.low < found.high


def test_a_population_of_hits_alone_is_within_its_interval() -> None:
    rng = np.random.default_rng(13)
    for slabs in (2, 3, 10, 1000):
        sizes = rng.integers(1, 33, slabs)
        for sampled in {1, slabs // 2, slabs - 1}:
            found = draw_share(sizes, sizes, sampled, rng)
            assert (found.value, found.high) == (1.0, 1.0)
            assert found.low < 1.0


def test_a_census_is_exact() -> None:
    sizes, hits = np.array([10, 20, 30]), np.array([1, 0, 29])
    found = clustered_share(hits, sizes, 3)
    assert found == Share(0.5, 0.5, 0.5)
    assert found.of(Estimate.known(60)) == Estimate(30, 30, 30)
    assert found.of(Estimate.known(60)).exact


def test_more_slabs_sampled_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(14)
    sizes, hits = np.full(1000, 32, np.int64), independent(rng, 0.3, 1000, 32)
    widths = [
        found.high - found.low
        for n in (10, 50, 250, 900, 999)
        for found in [clustered_share(hits[:n], sizes[:n], 1000)]
    ]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("clusters", [0, 1, 10])
def test_without_objects_nothing_is_known(clusters: int) -> None:
    none = np.zeros(0, np.int64)
    assert clustered_share(none, none, clusters) == Share(0.0, 0.0, 1.0)
    empty = np.zeros(3, np.int64)
    assert clustered_share(empty, empty, 3) == Share(0.0, 0.0, 1.0)


def test_one_slab_of_many_says_little() -> None:
    found = clustered_share(np.array([16]), np.array([32]), 1000)
    assert found.low < 0.1
    assert found.high > 0.9


def test_what_cannot_be_seen_widens_both_ends_by_what_it_could_hold() -> None:
    """100 seen objects, 25 hidden ones: between 50 of 125 and 75 of 125 are hits."""
    found = Share(0.5, 0.5, 0.5).widened(25 / 125)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6))
    assert Share(0.5, 0.4, 0.6).widened(0.0) == Share(0.5, 0.4, 0.6)
    hidden = Share(1.0, 1.0, 1.0).widened(1.0)
    assert (hidden.low, hidden.high) == (0.0, 1.0)


def test_the_count_of_an_uncertain_share_of_an_uncertain_total_adds_both() -> None:
    found = Share(0.5, 0.4, 0.6).of(Estimate(1000, 900, 1100))
    assert found == Estimate(500, 360, 660)
    assert Share(0.5, 0.5, 0.5).of(Estimate(1000, 900, 1100)) == Estimate(500, 450, 550)
    assert not Share(0.5, 0.4, 0.6).of(Estimate.known(1000)).exact

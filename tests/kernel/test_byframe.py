"""Values by page frame: whatever is done, they are what a plain array would have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crashext.kernel import byframe
from crashext.kernel.byframe import ByFrame, merged

LENGTH = 512 * 90 + 77


@pytest.fixture(params=["small", "large", "wide"], autouse=True)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain array, rows of 512, rows of 4,096."""
    if request.param != "small":
        monkeypatch.setattr(byframe, "DENSE", 0)
        monkeypatch.setattr(byframe, "_PIECE", 7)
    if request.param == "wide":
        monkeypatch.setattr(byframe, "_WIDE", 0)


@pytest.fixture
def both() -> tuple[ByFrame[np.uint8], np.ndarray]:
    """The same changes made to both."""
    rng = np.random.default_rng(1)
    sparse, plain = ByFrame.filled(LENGTH, np.uint8(3)), np.full(LENGTH, 3, np.uint8)
    for first in range(0, LENGTH - 4096, 4096):
        mixed = rng.integers(5, size=4096).astype(np.uint8)
        values = mixed if first % 3 == 0 else np.full(4096, first // 4096 % 4, np.uint8)
        sparse.put(first, values)
        plain[first : first + 4096] = values
    for _ in range(5):
        frames = rng.integers(LENGTH, size=300)
        values = rng.integers(5, size=300).astype(np.uint8)
        values = values[np.unique(frames, return_index=True)[1]]
        frames = np.unique(frames)
        sparse.set(frames, values)
        plain[frames] = values
    return sparse, plain


def test_values(both: tuple[ByFrame[np.uint8], np.ndarray]) -> None:
    sparse, plain = both
    assert (sparse[np.arange(LENGTH)] == plain).all()
    assert sparse[LENGTH - 1] == plain[-1]
    for first, end in ((0, 1), (500, 5000), (LENGTH - 90, LENGTH + 90), (LENGTH, LENGTH + 1)):
        assert (sparse.part(first, end) == plain[first:end]).all()
    assert sparse.tally(5).tolist() == np.bincount(plain, minlength=5).tolist()


def test_a_copy_is_its_own(both: tuple[ByFrame[np.uint8], np.ndarray]) -> None:
    sparse, plain = both
    other = sparse.copy()
    other.set(np.arange(LENGTH), np.uint8(9))
    assert (sparse[np.arange(LENGTH)] == plain).all()
    assert other.tally(10)[9] == LENGTH


@pytest.mark.parametrize(
    "rule",
    [lambda a: a.among(1, 3), lambda a: ~a.among(1, 3), lambda a: a.among(1, 3) & ~a.among(3)],
)
def test_masks(
    both: tuple[ByFrame[np.uint8], np.ndarray],
    rule: Callable[[ByFrame[np.uint8]], ByFrame[np.bool_]],
) -> None:
    sparse, plain = both
    mask = rule(sparse)
    dense = mask[np.arange(LENGTH)]
    expected = {True: np.isin(plain, (1, 3)), False: ~np.isin(plain, (1, 3))}
    assert any((dense == e).all() for e in (*expected.values(), plain == 1))
    assert (mask.frames() == np.flatnonzero(dense)).all()
    assert mask.count() == int(dense.sum())
    edges = np.flatnonzero(np.diff(dense.view(np.int8), prepend=0, append=0)).reshape(-1, 2)
    assert (mask.runs() == edges).all()
    assert (ByFrame.of_runs(LENGTH, edges)[np.arange(LENGTH)] == dense).all()


def test_runs_in_any_order_are_merged() -> None:
    runs = np.array([[50, 60], [0, 10], [5, 20], [20, 21], [50, 55], [70, 71]])
    assert merged(runs).tolist() == [[0, 21], [50, 60], [70, 71]]


def test_runs_that_touch_and_end_nowhere() -> None:
    runs = np.array([[0, 10], [10, 9000], [9000, 9001], [20000, LENGTH + 5000]])
    mask = ByFrame.of_runs(LENGTH, runs)
    assert mask.runs().tolist() == [[0, 9001], [20000, LENGTH]]

"""Sets of numbers are numpy's, and numpy.ma stays where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crashext.distinct import among, distinct, union, without

CASES: tuple[list[int], ...] = ([], [5], [3, 3, 3], [7, 1, 7, (1 << 63) + 1, 0, 1])


@pytest.mark.parametrize("one", CASES)
@pytest.mark.parametrize("other", CASES)
def test_they_are_numpys(one: list[int], other: list[int]) -> None:
    a, b = np.array(one, np.uint64), np.array(other, np.uint64)
    assert distinct(a).tolist() == np.unique(a).tolist()
    assert union(a, b).tolist() == np.union1d(a, b).tolist()
    assert without(a, b).tolist() == np.setdiff1d(a, b).tolist()
    assert among(a, b).tolist() == np.isin(a, b).tolist()


def test_of_rows_and_at_random() -> None:
    values = np.random.default_rng(1).integers(-50, 50, (60, 7))
    known = values[:3, :4]
    assert distinct(values).tolist() == np.unique(values).tolist()
    assert among(values, known).tolist() == np.isin(values, known).tolist()


def test_numpy_ma_is_not_imported() -> None:
    session = next(Path("sample_sessions").glob("many-leaks.session")).resolve()
    program = (
        "import sys; from crashext.commands.entry import leakscan;"
        f"leakscan(['-r', {str(session)!r}]); print('numpy.ma' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "False", ran.stderr

"""What a number that objects hold says of a place that works its size out from one."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.origin.group import Group
from crashext.analysis.origin.weighing import of_count
from crashext.kernel.origin.counting import Counting

TABLE = Counting(64, 8, 4, 4)
OF_1K = range(513, 1025)


def group(*numbers: int, used: int = 512) -> Group:
    content = np.zeros((len(numbers), 1024), np.uint8)
    content[:, 4:8] = np.array(numbers, "<u4")[:, None].view(np.uint8).reshape(-1, 4)
    words = content.view("<u8")
    return Group(content, words, used, frozenset(), frozenset())


@pytest.mark.parametrize(
    ("numbers", "used", "sizes"),
    [
        ([64] * 20, 512, (576,)),
        ([64, 100], 512, (576, 864)),
        ([64] * 99 + [3], 512, (576,)),  # one of a hundred was filled with something else
        ([64] * 20, 700, ()),  # they use more than that
        ([8] * 20, 64, ()),  # of kmalloc-128
        ([0] * 20, 512, ()),
        ([0xFFFFFFFF] * 20, 512, ()),  # no such product
        ([64, 3], 512, None),
    ],
)
def test_the_number_gives_the_size_or_another_one(
    numbers: list[int], used: int, sizes: tuple[int, ...] | None
) -> None:
    assert of_count(TABLE, group(*numbers, used=used), OF_1K) == sizes


def test_of_other_caches_and_other_places_it_says_nothing() -> None:
    assert of_count(TABLE, group(64), range(0)) is None
    assert of_count(None, group(64), OF_1K) is None


def test_a_number_beyond_the_object_is_another_object_s() -> None:
    assert of_count(Counting(64, 8, 1022, 4), group(64), OF_1K) == ()

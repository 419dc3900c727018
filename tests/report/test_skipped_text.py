"""What was skipped is a sentence: its number stands before what it counts, and fits it."""

import pytest

from crashext.report.skipped_text import skipped_text
from crashext.skipped import Skipped


@pytest.mark.parametrize(
    ("what", "count", "said"),
    [
        ("lines without memory", 1, "1 line without memory"),
        ("lines without memory", 3, "3 lines without memory"),
        (
            "kmalloc-32: slabs with a broken freelist",
            1,
            "kmalloc-32: 1 slab with a broken freelist",
        ),
        (
            "kmalloc-32(9:job): listed objects beyond the sample",
            2000,
            "kmalloc-32(9:job): 2,000 listed objects beyond the sample",
        ),
        ("page frames without a readable struct page", 1, "1 page frame without a readable"),
        ("memory map", 1, "memory map"),
        ("own slab walker: it has no lines", 1, "own slab walker: it has no lines"),
        ("stacks of no known event", 2, "2 stacks of no known event"),
        ("a\x1b[31m", 1, "a\\x1b[31m"),
    ],
)
def test_the_number_fits(what: str, count: int, said: str) -> None:
    assert skipped_text(Skipped(what, count, "so")).startswith(f"skipped: {said}")

"""Who holds the pages that no counter has: on memory made for the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.page_holders import page_holders, weak_holders
from crashext.analysis.verdict.facts import PagesHolder
from crashext.hosts.base import U64
from tests.kernel.whole import DIRECT, PAGE, Kernel


def frames(*runs: tuple[int, int]) -> NDArray[np.int64]:
    """Of blocks, as (where it begins, pages)."""
    return np.concatenate(
        [np.arange(count, dtype=np.int64) + (at - DIRECT) // PAGE for at, count in runs]
    )


def test_a_holder_has_all_that_hangs_at_it_and_the_largest_as_example() -> None:
    kernel = Kernel()
    small, large, other, lost = (kernel.block(n) for n in (1, 4, 2, 2))
    kernel.variable("pool", small, 0, large)
    kernel.variable("single", other)
    marked = kernel.marked()
    of_all = frames((small, 1), (large, 4), (other, 2), (lost, 2))
    assert page_holders(marked, of_all) == (
        PagesHolder("pool", "", 2, 5 * PAGE, U64(large)),
        PagesHolder("single", "", 1, 2 * PAGE, U64(other)),
    )
    assert page_holders(marked, frames((lost, 2))) == ()
    assert page_holders(marked, np.zeros(0, np.int64)) == ()


def test_whoever_allocated_most_is_named_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel()
    sizes = (4, 3, 3, 2, 1)
    blocks = [kernel.block(n) for n in sizes]
    kernel.variable("pool", *blocks)
    by = dict(zip(blocks, ("a+0x1", "b+0x2", "b+0x2", "c+0x3"), strict=False))
    records = {
        (at - DIRECT) // PAGE: ("alloc-tag", "allocated-by", who, "mod") for at, who in by.items()
    }
    monkeypatch.setattr(
        "crashext.analysis.page_holders.recorded_pages",
        lambda view, first: {f: records[f] for f in first.tolist() if f in records},
    )
    of_all = frames(*zip(blocks, sizes, strict=True))
    largest = PagesHolder("pool", "", 5, 13 * PAGE, U64(blocks[0]))
    assert page_holders(kernel.marked(), of_all) == (
        replace(largest, allocator="b+0x2 [mod]", allocator_share=6 / 13, other_allocators=2),
    )
    by_one = dict.fromkeys(records, ("page-owner", "allocated-by", "a+0x1", ""))
    records = by_one | {(blocks[4] - DIRECT) // PAGE: next(iter(by_one.values()))}
    assert page_holders(kernel.marked(), of_all) == (replace(largest, allocator="a+0x1"),)


def test_what_knows_physical_addresses_is_named() -> None:
    kernel = Kernel()
    one, two, third = (kernel.page() for _ in range(3))
    kernel.free_page()
    kernel.variable("rings", kernel.object("kmalloc-128", one - DIRECT, two - DIRECT))
    kernel.variable("dma", kernel.object("kmalloc-512", third - DIRECT))
    marked = kernel.marked()
    assert weak_holders(marked) == (
        PagesHolder("kmalloc-128 objects", "", 2, 2 * PAGE, U64(one)),
        PagesHolder("kmalloc-512 objects", "", 1, PAGE, U64(third)),
    )
    # These are not held by anybody's pointers.
    assert page_holders(marked, frames((one, 1), (two, 1), (third, 1))) == ()


def test_without_weakly_held_pages_there_is_nobody() -> None:
    kernel = Kernel()
    kernel.variable("pool", kernel.block(2))
    assert weak_holders(kernel.marked()) == ()

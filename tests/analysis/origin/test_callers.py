"""When one place in the code stands out, and when it is only the best fit of many."""

from __future__ import annotations

import pytest

from crashext.analysis.origin.callers import stands_out, telling
from crashext.analysis.origin.weighing import AGAINST, ASKS
from crashext.analysis.results.callsites import CallSite, Candidate
from crashext.hosts.base import U64

SITE = CallSite("audit_rule_init", 0xAA, "", U64(0), "kmalloc_trace", False, (80,))


@pytest.mark.parametrize(
    ("reasons", "stands_out"),
    [
        ((f"{ASKS}80 bytes",), False),
        ((f"{ASKS}80 bytes as its variables are now", f"{AGAINST}writes 0x1 at +0x8"), False),
        ((), False),
        ((f"{ASKS}80 bytes", "names rules, which they hold at +0x10"), True),
    ],
)
def test_a_size_alone_makes_nobody_the_allocator(
    reasons: tuple[str, ...], stands_out: bool
) -> None:
    """kmalloc-cg-96 objects of zeros in 7.2 were laid to the one place that asks for 80 bytes."""
    assert telling(Candidate(SITE, 0.85, reasons), range(65, 97)) is stands_out


def test_of_a_cache_of_one_kind_every_place_allocates_that_kind() -> None:
    assert telling(Candidate(SITE, 0.85, ()), range(0))


@pytest.mark.parametrize(
    ("places", "clear"),
    [
        ([("one", 0.44), ("one", 0.44), ("two", 0.04)], True),  # at two calls of one function
        ([("one", 0.9), ("two", 0.09)], True),
        ([("one", 0.85), ("two", 0.14)], False),  # on a guest with kmemleak it was the second
        ([("one", 0.44), ("two", 0.44)], False),
        ([("one", 0.84), *[(f"of_{i}", 0.01) for i in range(16)]], True),
    ],
)
def test_a_function_stands_out_that_leaves_the_next_far_behind(
    places: list[tuple[str, float]], clear: bool
) -> None:
    sites = [CallSite(name, 0x20, "", U64(0), "kmalloc_trace", False, ()) for name, _ in places]
    assert stands_out(sites, [probability for _, probability in places]) is clear

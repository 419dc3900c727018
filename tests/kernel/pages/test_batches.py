"""What is stale in each CPU's batches of pages, in the variables of each generation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crashext.hosts.base import Layout
from crashext.kernel.pages.batches import stale_pages
from tests.fake import FakeHost, layout, word
from tests.kernel.machine import address_space

UNITS = (0xFFFF88803FC00000, 0xFFFF88803FC40000)
SPACE = replace(address_space(16), percpu_offsets=UNITS)
VARIABLE = 0x12000
OLD = layout("struct pagevec", 128, nr=(0, 8), cold=(8, 8), pages=(16, 112))
PAGEVEC = layout("struct pagevec", 128, nr=(0, 1), percpu_pvec_drained=(1, 1), pages=(8, 120))
BATCH = layout("struct folio_batch", 256, nr=(0, 1), i=(1, 1), folios=(8, 248))


@pytest.mark.parametrize(
    ("name", "layouts", "first", "inside"),
    [
        ("lru_add_pvec", (OLD,), 16, 0),  # 3.10
        ("activate_page_pvecs", (PAGEVEC,), 8, 0),  # 4.19
        ("lru_pvecs", (PAGEVEC, layout("struct lru_pvecs", 136, lock=(0, 0), add=(8, 128))), 8, 8),
        (
            "cpu_fbatches",
            (BATCH, layout("struct cpu_fbatches", 264, lock=(0, 4), lru_add=(8, 256))),
            8,
            8,
        ),
    ],
)
def test_behind_the_pages_that_are_in_a_batch_all_is_stale(
    name: str, layouts: tuple[Layout, ...], first: int, inside: int
) -> None:
    host = FakeHost(*layouts, symbols={name: VARIABLE})
    size = layouts[0].size
    for unit, count in zip(UNITS, (3, (size - first) // 8), strict=True):
        host.put(unit + VARIABLE, bytes(inside) + word(count) + bytes(size - 8))
    begin, end = stale_pages(host, SPACE)
    at = [unit + VARIABLE + inside for unit in UNITS]
    # The second CPU's is full.
    assert begin.tolist() == [at[0] + first + 3 * 8, at[1] + size]
    assert end.tolist() == [at[0] + size, at[1] + size]


def test_a_count_that_cannot_be_makes_nothing_stale() -> None:
    host = FakeHost(PAGEVEC, symbols={"lru_add_pvec": VARIABLE})
    host.put(UNITS[0] + VARIABLE, word(16) + bytes(120))  # and the other cannot be read
    assert [len(part) for part in stale_pages(host, SPACE)] == [0, 0]


def test_a_variable_that_is_more_than_a_batch_is_none_itself() -> None:
    more = layout("struct mlock_pvec", 136, lock=(0, 4), vec=(8, 128))
    host = FakeHost(PAGEVEC, more, symbols={"mlock_pvec": VARIABLE})
    for unit in UNITS:
        host.put(unit + VARIABLE, bytes(136))
    begin, _ = stale_pages(host, SPACE)
    assert begin.tolist() == [unit + VARIABLE + 16 for unit in UNITS]


def test_a_kernel_of_which_nothing_is_known_has_none() -> None:
    assert [len(part) for part in stale_pages(FakeHost(), SPACE)] == [0, 0]

"""A pointer to one page of a block holds the block, and struct pages hold each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from crashext.analysis.reach.blocks import spread
from crashext.kernel.slab.view import KernelView
from tests.kernel.machine import VMEMMAP, Machine
from tests.kernel.pages.test_frames import FULL_PAGE

FRAMES = np.arange(16, 48)


def machine() -> Machine:
    """Page frames with one reference each."""
    made = Machine(64, page=FULL_PAGE)
    for pfn in range(64):
        made.put(pfn, 48, 0x1_FFFFFFFF)
    return made


def uncounted(made: Machine, *pfns: int) -> None:
    for pfn in pfns:
        made.put(pfn, 48, 0x0_FFFFFFFF)


def chain(made: Machine, *pfns: int) -> None:
    """A ring of struct pages through their `lru`."""
    nodes = [VMEMMAP + 64 * pfn + 8 for pfn in pfns]
    for at, following, preceding in zip(
        pfns, [*nodes[1:], nodes[0]], [nodes[-1], *nodes[:-1]], strict=True
    ):
        made.put(at, 8, following)
        made.put(at, 16, preceding)


def in_use(made: Machine, *named: int) -> list[int]:
    view = cast(KernelView, SimpleNamespace(host=made.host, memory=made.memory))
    found = spread(view, FRAMES, np.isin(FRAMES, named))
    return [int(pfn) for pfn in FRAMES[found]]


def test_any_page_of_a_block_holds_all_of_it_and_no_more() -> None:
    made = machine()
    uncounted(made, 21, 22, 23)
    assert in_use(made, 22) == [20, 21, 22, 23]
    assert in_use(made, 24) == [24]


def test_a_chain_holds_whole_blocks_from_its_first_struct_page() -> None:
    made = machine()
    uncounted(made, 31, 41)
    chain(made, 20, 30, 40)
    assert in_use(made, 20) == [20, 30, 31, 40, 41]


def test_a_struct_page_that_is_not_pointed_back_at_is_on_no_chain() -> None:
    made = machine()
    chain(made, 20, 30)
    made.put(30, 16, 0xDEAD000000000122)
    made.put(30, 8, 0xDEAD000000000100)
    assert in_use(made, 20) == [20]


def test_private_holds_the_page_that_it_names_and_not_the_other_way_round() -> None:
    made = machine()
    made.put(20, 40, VMEMMAP + 64 * 30)
    made.put(21, 40, VMEMMAP + 64 * 31 + 8)  # no struct page begins there
    assert in_use(made, 20, 21) == [20, 21, 30]
    assert in_use(made, 30) == [30]


def test_nothing_is_in_use_where_nothing_is_named() -> None:
    made = machine()
    chain(made, 20, 30)
    assert in_use(made) == []

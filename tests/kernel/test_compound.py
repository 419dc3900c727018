"""Tails of compound pages, in each of the three ways in which kernels marked them."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.hosts.base import Layout
from crashext.kernel.compound import tails
from crashext.kernel.pages.frames import FrameUse, frames
from crashext.progress import silent
from tests.fake import FakeHost, layout
from tests.kernel.machine import PAGE, VMEMMAP, Machine

PG_TAIL = 15
OLD = layout("struct page", 64, flags=(0, 8), first_page=(48, 8))
LINKED = layout("struct page", 64, flags=(0, 8), compound_head=(8, 8))
MASKED = layout("struct page", 64, flags=(0, 8), compound_info=(8, 8))


def row(flags: int = 0, second: int = 0, seventh: int = 0) -> np.ndarray:
    return np.array([flags, second, 0, 0, 0, 0, seventh, 0], np.uint64).view(np.uint8)


def found(page: Layout, *rows: np.ndarray) -> tuple[list[bool], list[int]]:
    """Which of the rows of an order-1 page at VMEMMAP + 0x1000 are tails, and all their heads."""
    host = FakeHost(page, enumerators={"PG_tail": PG_TAIL} if page is OLD else {})
    where = VMEMMAP + 0x1000 + 64 * np.arange(len(rows), dtype=np.uint64)
    table = np.stack(rows)
    known = tails(host, page)
    return known.among(table).tolist(), known.heads(table, where).tolist()


HEAD = VMEMMAP + 0x1000


def test_before_4_4_a_flag_and_a_pointer() -> None:
    # The second word is page->mapping there: its bit 0 says anonymous, and nothing about tails.
    is_tail, heads = found(OLD, row(1 << 14, second=0x1001), row(1 << PG_TAIL, seventh=HEAD))
    assert is_tail == [False, True]
    assert heads[1] == HEAD


def test_since_4_4_bit_0_of_a_pointer() -> None:
    is_tail, heads = found(LINKED, row(second=HEAD + 0x40), row(second=HEAD | 1))
    assert is_tail == [False, True]
    assert heads[1] == HEAD


@pytest.mark.parametrize("order", [1, 3, 9])
def test_since_7_1_a_mask_of_the_tails_own_address(order: int) -> None:
    mask = -(64 << order) & (1 << 64) - 1
    is_tail, heads = found(MASKED, row(), row(second=mask | 1))
    assert is_tail == [False, True]
    assert heads[1] == HEAD & mask


def test_7_1_without_masks_is_a_pointer() -> None:
    assert found(MASKED, row(), row(second=HEAD | 1))[1][1] == HEAD


@pytest.mark.parametrize("name", ["compound_head", "compound_info"])
def test_tails_are_used_for_what_their_head_is(name: str) -> None:
    members = {k: v for k, v in PAGE.members.items() if k != "compound_head"}
    page = Layout("struct page", 64, {**members, name: PAGE.members["compound_head"]})
    machine = Machine(16, page=page)
    machine.slab(8, tails=3)
    if name == "compound_info":
        for pfn in range(9, 12):
            machine.put(pfn, 8, -256 & (1 << 64) - 1 | 1)
    use = frames(machine.host, machine.memory, machine.space, silent).use
    assert np.flatnonzero(use[:] == FrameUse.SLAB).tolist() == [8, 9, 10, 11]

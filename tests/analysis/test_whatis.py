"""What an address is that no slab object holds: every kind, on memory made for the test."""

from __future__ import annotations

import pytest

from crashext.analysis.likeness.survey import make_classifier
from crashext.analysis.results.standing import Thing
from crashext.analysis.whatis import WhatIs
from tests.kernel.whole import DIRECT, PAGE, VMALLOC, VMEMMAP, Kernel


class Known:
    """One kernel with a thing of each kind, marked."""

    def __init__(self) -> None:
        kernel = Kernel()
        kernel.object("kmalloc-64")
        self.area = kernel.area(3)
        self.block = kernel.block(4)
        self.user, self.free = kernel.user_page(), kernel.free_page()
        self.task, self.stack = kernel.task(77, "sleeper", 512)
        self.variable = kernel.variable("some_table", 1, 2)
        self.marked = kernel.marked()
        self.classifier = make_classifier(self.marked.view)

    def at(self, address: int, marked: bool = True) -> Thing:
        reach = self.marked if marked else None
        return WhatIs(self.marked.view, self.classifier, reach).at(address)


@pytest.fixture(scope="module")
def known() -> Known:
    return Known()


def test_an_area_and_the_pages_behind_it(known: Known) -> None:
    thing = known.at(known.area + PAGE + 8)
    assert (thing.kind, thing.start, thing.size) == ("area", known.area, 3 * PAGE)
    assert thing.what == "vmalloc area of 12,288 bytes, by start_kernel"
    assert thing.memory == known.area
    areas = known.marked.areas
    row = int((areas.start == known.area).nonzero()[0][0])
    frame = int(areas.frame[(areas.frame_area == row) & (areas.frame_index == 1)][0])
    behind = known.at(DIRECT + PAGE * frame)
    assert (behind.kind, behind.start) == ("area", known.area)
    assert f"page {known.area + PAGE:x} of it" in behind.details


def test_the_guard_page_is_no_memory_of_an_area(known: Known) -> None:
    address = known.area + 3 * PAGE
    assert f"{address:x} is in its guard page" in known.at(address).details


def test_a_block_of_pages_by_any_of_its_pages(known: Known) -> None:
    for page in range(4):
        thing = known.at(known.block + PAGE * page + 16)
        assert (thing.kind, thing.start, thing.size) == ("pages", known.block, 4 * PAGE)
        assert thing.memory == known.block
    assert thing.what.startswith("block of 4 pages from the page allocator, 16,384 bytes")
    assert "page 3 of it" in thing.details


def test_a_struct_page_is_told_with_its_page(known: Known) -> None:
    frame = (known.block - DIRECT) // PAGE
    thing = known.at(VMEMMAP + 64 * frame + 8)
    assert (thing.kind, thing.start, thing.size) == ("struct-page", VMEMMAP + 64 * frame, 64)
    assert thing.what.startswith(f"struct page of page frame {frame:#x}: block of 4 pages")
    assert thing.memory == known.block
    slab = known.at(VMEMMAP + 64 * ((known.task - DIRECT) // PAGE))
    assert slab.what.endswith(": a slab of task_struct")


def test_pages_of_other_uses(known: Known) -> None:
    assert "anonymous user memory" in known.at(known.user).what
    free = known.at(known.free + 5)
    assert (free.state, free.what) == (
        "free",
        f"page frame {(known.free - DIRECT) // PAGE:#x}: free",
    )
    assert known.at(known.free).memory is None


def test_a_stack_is_of_a_task_and_its_dead_words_are_told(known: Known) -> None:
    live = known.at(known.stack + 4 * PAGE - 8)
    assert live.kind == "stack"
    assert live.what == "stack of sleeper (pid 77), 16,384 bytes: in use"
    dead = known.at(known.stack + 64)
    assert "dead words" in dead.what
    assert dead.memory is None


def test_symbols_and_what_is_no_address(known: Known) -> None:
    thing = known.at(known.variable + 8)
    assert (thing.kind, thing.start) == ("symbol", known.variable)
    assert "some_table+0x8, in the kernel's data" in thing.what
    assert known.at(VMALLOC + 5).what == "vmalloc address, in no area"
    assert known.at(0xDEAD000000000100).what.startswith("not a kernel address that is mapped: LIST")
    assert known.at(0x00007FFD12345678).what == "a user-space address"


def test_without_a_mark_single_structures_tell(known: Known) -> None:
    assert known.at(known.area + 8, marked=False).what == (
        "vmalloc area of 16,384 bytes with its guard page, by start_kernel"
    )
    page = known.at(known.block, marked=False)
    assert "allocated by the kernel, not from a slab" in page.what
    assert page.memory is None

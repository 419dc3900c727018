"""Tags of page frames and the counters of tags, on synthetic memory: struct alloc_tag of 6.12."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from crashext.kernel.addresses import AddressSpace
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.origin.allocprofile import Outstanding, outstanding, page_tags
from tests.fake import FakeHost, layout, word
from tests.kernel.origin.test_pageowner import ENTRY, EXT, Machine

TAG_OPS, TAGS, COUNTERS = 0xFFFFFFFF82000400, 0xFFFFFFFF82400000, 0x23000
FIRST_CPU, SECOND_CPU = 0xFFFF888000A00000, 0xFFFF888000B00000
PART = 72
"""Behind page_ext's flags and page_owner's part."""
WORD = (1 << 64) - 1
MAP, MODULES = 0xFFFFEA0000100000, 0xFFFFFFFFC0800000
KERNEL_TAGS, MODULE_TAGS, MASK, SHIFT = (0xFFFFFFFF82000800 + 0x40 * i for i in range(4))


def memory(host: FakeHost, first: int, pages: int = 16) -> MemoryMap:
    """Of page frames from `first` on."""
    start, maps, count = (np.array([number], np.uint64) for number in (first, MAP, pages))
    return MemoryMap(host, 64, start, maps, count, cast(AddressSpace, None))


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    host = machine.host
    host.symbols["page_alloc_tagging_ops"] = TAG_OPS
    host.put(TAG_OPS, word(PART))
    for known in (
        layout("struct alloc_tag", 40, ct=(0, 32), counters=(32, 8)),
        layout("struct alloc_tag_counters", 16, bytes=(0, 8), calls=(8, 8)),
    ):
        host.layouts[known.name] = known
    for cpu in (FIRST_CPU, SECOND_CPU):
        host.put(cpu + COUNTERS, bytes(4096))
    host.put(TAGS, bytes(4096))
    return machine


def count(machine: Machine, tag: int, *each: tuple[int, int]) -> None:
    """Give `tag` counters, (bytes, calls) of each CPU."""
    number = (tag - TAGS) // 40
    machine.host.put(tag + 32, word(COUNTERS + 16 * number))
    for cpu, (size, calls) in zip((FIRST_CPU, SECOND_CPU), each, strict=True):
        machine.host.put(cpu + COUNTERS + 16 * number, word(size & WORD, calls & WORD))


def counted(machine: Machine, *tags: int) -> dict[int, Outstanding]:
    space = cast(AddressSpace, SimpleNamespace(percpu_offsets=(FIRST_CPU, SECOND_CPU)))
    return outstanding(machine.host, space, np.array(tags, np.uint64))


def test_each_allocation_of_pages_has_its_tag(machine: Machine) -> None:
    for i, tag in ((0, TAGS), (5, TAGS + 40), (6, 1)):
        machine.host.put(EXT + ENTRY * i + PART, word(tag))
    frames = np.uint64(machine.first) + np.array([5, 0, 6, 7, 1 << 20], np.uint64)
    # 1 is CODETAG_EMPTY; the last page frame is in no section.
    assert page_tags(memory(machine.host, machine.first), frames).tolist() == [
        TAGS + 40,
        TAGS,
        0,
        0,
        0,
    ]


def test_a_kernel_that_keeps_no_tags_in_page_ext_has_none(machine: Machine) -> None:
    """The part that nobody asked for at boot has the offset 0, where page_ext's flags are."""
    machine.host.put(EXT, word(0b1011))
    machine.host.put(TAG_OPS, word(0))
    frame = np.array([machine.first], np.uint64)
    assert page_tags(memory(machine.host, machine.first), frame).tolist() == [0]
    del machine.host.symbols["page_alloc_tagging_ops"]
    assert page_tags(memory(machine.host, machine.first), frame).tolist() == [0]


def test_counters_are_summed_over_the_cpus(machine: Machine) -> None:
    count(machine, TAGS, (640, 20), (32, 1))
    count(machine, TAGS + 40, (9_600, 100), (-9_504, -99))  # freed on the other CPU
    assert counted(machine, TAGS, TAGS + 40, 0, TAGS) == {
        TAGS: Outstanding(21, 672),
        TAGS + 40: Outstanding(1, 96),
    }


def test_counters_that_make_no_sense_or_are_not_there_say_nothing(machine: Machine) -> None:
    count(machine, TAGS, (-32, -1), (0, 0))
    count(machine, TAGS + 40, (32, 1), (0, 0))
    machine.host.put(TAGS + 40 + 32, word(0))
    machine.host.put(TAGS + 80 + 32, word(0x7000_0000))
    assert counted(machine, TAGS, TAGS + 40, TAGS + 80, TAGS + 0x100000) == {}


@pytest.fixture
def numbering(machine: Machine) -> Machine:
    """lib/alloc_tag.c of 7.x with sysctl.vm.mem_profiling=1,compressed: 12 bits from bit 30 on.
    The kernel has three tags, its modules two."""
    host = machine.host
    for known in (
        layout("struct page", 64, flags=(0, 8)),
        layout("struct alloc_tag_kernel_section", 16, first_tag=(0, 8), count=(8, 8)),
        layout("struct alloc_tag_module_section", 24, start_addr=(0, 8), size=(16, 8)),
    ):
        host.layouts[known.name] = known
    host.symbols |= {
        "kernel_tags": KERNEL_TAGS,
        "module_tags": MODULE_TAGS,
        "alloc_tag_ref_mask": MASK,
        "alloc_tag_ref_offs": SHIFT,
    }
    host.put(KERNEL_TAGS, word(TAGS, 3))
    host.put(MODULE_TAGS, word(MODULES, MODULES + 40 * 1000, 2 * 40))
    host.put(MASK, word((1 << 12) - 1))
    host.put(SHIFT, (30).to_bytes(4, "little"))
    host.put(MAP, bytes(64 * 16))
    host.put(TAG_OPS, word(0))
    return machine


def test_tags_in_page_flags_are_those_of_the_kernel_and_then_of_modules(
    numbering: Machine,
) -> None:
    numbers = [0, 1, 2, 4, 5, 6, 7, (1 << 12) - 1]
    for i, number in enumerate(numbers):
        # Other flags, and the node and zone above.
        flags = 0x5 | number << 30 | 0x2FFFF << 44
        numbering.host.put(MAP + 64 * i, word(flags))
    frames = np.uint64(numbering.first) + np.array([*range(8), 9, 1 << 20], np.uint64)
    expected = [0, 0, TAGS, TAGS + 80, MODULES, MODULES + 40, 0, 0, 0, 0]
    assert page_tags(memory(numbering.host, numbering.first), frames).tolist() == expected
    assert not len(page_tags(memory(numbering.host, numbering.first), frames[:0]))


def test_where_tags_are_not_numbered_they_are_beside_the_pages(numbering: Machine) -> None:
    """Before 6.13, or without `compressed`: the mask stays 0, or is no variable at all."""
    host = numbering.host
    host.put(TAG_OPS, word(PART))
    host.put(EXT + PART, word(TAGS + 40))
    host.put(MAP, word(2 << 30))
    frame = np.array([numbering.first], np.uint64)

    def found() -> int:
        return int(page_tags(memory(host, numbering.first), frame)[0])

    assert found() == TAGS
    host.put(MASK, word(0))
    assert found() == TAGS + 40
    host.put(MASK, word(1))
    host.put(SHIFT, (77).to_bytes(4, "little"))
    assert found() == TAGS + 40
    del host.symbols["alloc_tag_ref_mask"]
    assert found() == TAGS + 40


def test_numbers_without_their_list_are_none(numbering: Machine) -> None:
    host = numbering.host
    host.put(MAP, word(2 << 30))
    host.put(MAP + 64, word(5 << 30))
    frames = np.uint64(numbering.first) + np.array([0, 1], np.uint64)
    del host.symbols["module_tags"]
    assert page_tags(memory(host, numbering.first), frames).tolist() == [TAGS, 0]
    del host.symbols["kernel_tags"]
    host.put(EXT, bytes(ENTRY * 2))
    assert page_tags(memory(host, numbering.first), frames).tolist() == [0, 0]

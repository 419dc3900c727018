"""Tags of page frames and the counters of tags, on synthetic memory: struct alloc_tag of 6.12."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from crashext.kernel.addresses import AddressSpace
from crashext.kernel.origin.allocprofile import Outstanding, outstanding, page_tags
from tests.fake import layout, word
from tests.kernel.origin.test_pageowner import ENTRY, EXT, Machine

TAG_OPS, TAGS, COUNTERS = 0xFFFFFFFF82000400, 0xFFFFFFFF82400000, 0x23000
FIRST_CPU, SECOND_CPU = 0xFFFF888000A00000, 0xFFFF888000B00000
PART = 72
"""Behind page_ext's flags and page_owner's part."""
WORD = (1 << 64) - 1


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
    assert page_tags(machine.host, frames).tolist() == [TAGS + 40, TAGS, 0, 0, 0]


def test_a_kernel_that_keeps_no_tags_in_page_ext_has_none(machine: Machine) -> None:
    """The part that nobody asked for at boot has the offset 0, where page_ext's flags are."""
    machine.host.put(EXT, word(0b1011))
    machine.host.put(TAG_OPS, word(0))
    frame = np.array([machine.first], np.uint64)
    assert page_tags(machine.host, frame).tolist() == [0]
    del machine.host.symbols["page_alloc_tagging_ops"]
    assert page_tags(machine.host, frame).tolist() == [0]


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

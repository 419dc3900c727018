"""Words of the kernel's own that look like physical addresses and are none."""

from __future__ import annotations

import numpy as np

from crashext.kernel.pages.numbers import flags_of_timers, numbers
from tests.fake import FakeHost, layout, word
from tests.kernel.machine import address_space

ROOT, FIRST, SECOND, BELOW = 0xFFFFFFFF82000000, *(0xFFFF888001000000 + 64 * n for n in range(3))
BLOCKS, BLOCK = 0xFFFFFFFF82000100, 0xFFFF888002000000
RESOURCE = layout(
    "struct resource", 64, start=(8, 8), end=(16, 8), parent=(40, 8), sibling=(48, 8), child=(56, 8)
)
SUPER_BLOCK = layout("struct super_block", 128, s_list=(0, 16), s_flags=(80, 8))


TIMER = layout(
    "struct timer_list", 40, entry=(0, 16), expires=(16, 8), function=(24, 8), flags=(32, 4)
)
CODE, LINK, POISON = 0xFFFFFFFFA04EE720, 0xFFFF88800F820BE0, 0xDEAD000000000122


def resource(host: FakeHost, at: int, sibling: int = 0, child: int = 0) -> None:
    host.put(at, word(0, 0x1000, 0x1FFF, 0, 0, 0, sibling, child))


def test_beginnings_of_all_memory_resources_are_numbers() -> None:
    host = FakeHost(RESOURCE, symbols={"iomem_resource": ROOT})
    resource(host, ROOT, child=FIRST)
    resource(host, FIRST, sibling=SECOND, child=BELOW)
    resource(host, SECOND, sibling=0xFFFF88800F000000)  # not in the dump
    resource(host, BELOW, child=FIRST)  # damage: a circle
    assert numbers(host).tolist() == [at + 8 for at in (FIRST, SECOND, BELOW, ROOT)]


def test_flags_of_superblocks_are_numbers() -> None:
    host = FakeHost(SUPER_BLOCK, symbols={"super_blocks": BLOCKS})
    host.put(BLOCKS, word(BLOCK, BLOCK + 0x800))
    host.put(BLOCK, word(BLOCK + 0x800, BLOCKS) + bytes(112))
    host.put(BLOCK + 0x800, word(BLOCKS, BLOCK) + bytes(112))
    assert numbers(host).tolist() == [BLOCK + 80, BLOCK + 0x800 + 80]


def test_a_kernel_of_which_nothing_is_known_has_none() -> None:
    assert not len(numbers(FakeHost()))


def test_what_stands_behind_a_timers_function_is_its_flags() -> None:
    host, space = FakeHost(TIMER), address_space(1 << 16)
    timers = {
        (0, LINK, 7, CODE): True,
        (POISON, 0, 7, CODE): True,
        (0, LINK, 7, LINK): False,  # no function
        (5, LINK, 7, CODE): False,  # no link
        (0, 6, 7, CODE): False,
    }
    for i, words in enumerate(timers):
        host.put(BLOCK + 40 * i, word(*words, 0x3800000))
    at = BLOCK + 32 + 40 * np.arange(len(timers) + 1, dtype=np.uint64)  # the last is not there
    assert flags_of_timers(host, space, at).tolist() == [*timers.values(), False]
    assert not flags_of_timers(FakeHost(), space, at).any()

"""The direct map ends where the next region begins, wherever KASLR put both."""

from __future__ import annotations

import pytest

from crashext.hosts.directmap import direct_map
from tests.fake import INFO

TIB = 1 << 40
BASE = 0xFFFF94BA00000000


@pytest.mark.parametrize("gap", [int(2.5 * TIB), 11 * TIB, 37 * TIB, 71 * TIB])
def test_it_ends_where_vmalloc_begins(gap: int) -> None:
    found = direct_map(
        INFO,
        {
            "page_offset_base": BASE,
            "vmalloc_base": BASE + gap,
            "vmemmap_base": BASE + gap + 33 * TIB,
        }.get,
    )
    assert (found.start, found.stop) == (BASE, BASE + gap)
    assert BASE + gap not in found


def test_a_memory_map_below_vmalloc_ends_it_too() -> None:
    bases = {"page_offset_base": BASE, "vmalloc_base": None, "vmemmap_base": BASE + 3 * TIB}
    assert direct_map(INFO, bases.get).stop == BASE + 3 * TIB


def test_a_kernel_that_does_not_say_has_no_shortcut() -> None:
    assert not direct_map(INFO, {"page_offset_base": BASE}.get)
    assert not direct_map(INFO, {"vmalloc_base": BASE}.get)
    assert not direct_map(INFO, {"page_offset_base": BASE, "vmalloc_base": 0}.get)

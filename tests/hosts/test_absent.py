"""A name that is missing because a bit of it flipped is told from one that a kernel has not."""

from __future__ import annotations

import pytest

from crashext.hosts.absent import Members, a_bit_apart
from crashext.hosts.base import HostError, Layout, Member


def test_names_that_are_a_bit_apart() -> None:
    known = {"cpu_slac", "node", "lru"}
    assert a_bit_apart("cpu_slab", known) == "cpu_slac"
    assert a_bit_apart("cpu_slaz", known) == ""  # three bits
    assert a_bit_apart("cpu_sla", known) == ""
    assert a_bit_apart("lrt", known) == ""  # too short to tell


def test_a_member_is_there_or_absent_or_damaged() -> None:
    found = Layout("struct kmem_cache", 16, Members({"cpu_slac": Member(0, 8)}))
    assert "cpu_slac" in found
    assert "cpu_sheaves" not in found
    with pytest.raises(HostError, match="cpu_slac is there, one bit from cpu_slab"):
        assert "cpu_slab" in found
    with pytest.raises(HostError, match="one bit from"):
        found.first_of("inuse", "cpu_slab")

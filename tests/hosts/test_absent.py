"""A name that is missing because a bit of it flipped is told from one that a kernel has not."""

from __future__ import annotations

import pytest

from crashext.hosts.absent import Members, a_bit_apart, require_absent
from crashext.hosts.base import HostError, Layout, Member, UnknownLayout


def test_names_that_are_a_bit_apart() -> None:
    known = {"cpu_slac", "node", "lru"}
    assert a_bit_apart("cpu_slab", known) == "cpu_slac"
    assert a_bit_apart("cpu_slaz", known) == ""  # three bits
    assert a_bit_apart("cpu_sla", known) == ""
    assert a_bit_apart("lrt", known) == ""  # too short to tell


KNOWN = {"cpu_slac": Member(0, 8)}


def refuse(name: str) -> Member | None:
    require_absent(name, KNOWN)
    return None


def test_a_member_is_there_or_absent_or_damaged() -> None:
    found = Layout("struct kmem_cache", 16, Members(KNOWN, refuse))
    assert "cpu_slac" in found
    assert "cpu_sheaves" not in found
    with pytest.raises(UnknownLayout, match="no member cpu_sheaves"):
        found["cpu_sheaves"]
    for ask in (
        lambda: "cpu_slab" in found,
        lambda: found["cpu_slab"],
        lambda: found.first_of("inuse", "cpu_slab"),
    ):
        with pytest.raises(HostError, match="cpu_slac is there, one bit from cpu_slab"):
            ask()


def test_a_damaged_member_is_one_that_is_known_from_elsewhere() -> None:
    found = Layout("struct kmem_cache", 16, Members(KNOWN, {"cpu_slab": Member(8, 8)}.get))
    assert "cpu_slab" in found
    assert found["cpu_slab"].offset == 8
    assert found.first_of("cpu_sheaves", "cpu_slab") == Member(8, 8)
    assert "cpu_sheaves" not in found

"""A name that is missing because a bit of it flipped is told from one that a kernel has not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crashext
from crashext.hosts.absent import (
    SPELLINGS,
    Members,
    a_bit_apart,
    is_respelt,
    require_absent,
)
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


def test_what_is_missing_is_looked_for_once() -> None:
    asked: list[str] = []

    def elsewhere(name: str) -> Member | None:
        asked.append(name)
        return None

    found = Layout("struct kmem_cache", 16, Members(KNOWN, elsewhere))
    for _ in range(3):
        assert "cpu_sheaves" not in found
        assert found.first_of("cpu_sheaves", "cpu_slac") == KNOWN["cpu_slac"]
    assert asked == ["cpu_sheaves"]


def test_what_is_asked_for_by_either_name_is_not_damaged_by_having_the_other() -> None:
    """A kernel that has slub_debug lacks slab_debug, however alike they are packed."""
    either = re.compile(r'address_of\("(\w+)"\) or \w+\.address_of\("(\w+)"\)')
    sources = Path(crashext.__file__).parent.rglob("*.py")
    pairs = [pair for path in sources for pair in either.findall(path.read_text())]
    assert ("slub_debug", "slab_debug") in pairs
    for one, other in pairs:
        assert is_respelt(one, other), (one, other)
    assert not is_respelt("slub_debug", "stack_slabs")
    assert all(len(both) == 2 for both in SPELLINGS)

"""Scalars, strings and columns out of memory, and the wording of what the kernel writes there."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.hosts.base import HostError, Member, ReadFault
from crashext.kernel import access, markers
from crashext.kernel.access import UnknownLayout
from crashext.kernel.scalars import MAX_STRING
from tests.fake import FakeHost, layout, word

PAGE = 0xFFFF888000010000


def host_with(data: bytes, at: int = PAGE) -> FakeHost:
    host = FakeHost(symbols={"counter": PAGE})
    host.put(at, data)
    return host


def test_a_string_that_ends_just_before_a_missing_page_is_whole() -> None:
    host = host_with(bytes(4096 - 6) + b"ext4i\0")
    assert access.string(host, PAGE + 4090) == "ext4i"
    assert access.string(host, PAGE + 4095) == ""


def test_a_string_that_runs_into_a_missing_page_is_what_is_there_of_it() -> None:
    host = host_with(bytes(4096 - 5) + b"trunc")
    assert access.string(host, PAGE + 4091) == "trunc"


def test_a_string_over_two_pages_is_whole() -> None:
    host = host_with(bytes(4090) + b"skbuff" + b"_head\0" + bytes(4090))
    assert access.string(host, PAGE + 4090) == "skbuff_head"


def test_a_string_without_an_end_is_cut() -> None:
    assert access.string(host_with(b"a" * 4096), PAGE) == "a" * MAX_STRING
    assert access.string(host_with(b"a" * 4096), PAGE, limit=10) == "a" * 10


def test_bytes_that_are_no_text_are_escaped() -> None:
    assert access.string(host_with(b"bad\xff\xe2\0".ljust(4096)), PAGE) == "bad\\xff\\xe2"


def test_a_string_that_is_not_there_is_a_fault() -> None:
    with pytest.raises(ReadFault):
        access.string(FakeHost(), PAGE)


def test_a_variable_that_is_missing_or_unreadable_is_none() -> None:
    host = host_with(word(0x1122334455667788))
    assert access.variable(host, "counter") == 0x1122334455667788
    assert access.variable(host, "counter", 4) == 0x55667788
    assert access.variable(host, "no_such_symbol") is None
    host.symbols["an_int_once"] = PAGE + 4
    assert access.variable(host, "an_int_once", 4) == 0x11223344
    host.symbols["moved"] = PAGE + 2
    with pytest.raises(HostError, match="no variable moved can be there"):
        access.variable(host, "moved")
    host.symbols["gone"] = PAGE + 0x10000
    assert access.variable(host, "gone") is None


def test_a_member_that_a_kernel_lacks_is_named() -> None:
    host = FakeHost(layout("struct page", 64, flags=(0, 8)))
    assert access.require(host, "struct page", "flags").size == 64
    with pytest.raises(UnknownLayout, match=r"struct page has no member mapping"):
        access.require(host, "struct page", "flags", "mapping")
    with pytest.raises(UnknownLayout, match=r"no struct slab"):
        access.require(host, "struct slab")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        (Member(0, 8), 0x8877665544332211),
        (Member(0, 4), 0x44332211),
        (Member(1, 1), 0x22),
        (Member(2, 2), 0x4433),
        (Member(4, 4, bit_offset=0, bit_size=16), 0x6655),  # struct slab: inuse:16
        (Member(6, 4, bit_offset=0, bit_size=15), 0x0877),  # objects:15, as drgn lays it out
        (Member(7, 4, bit_offset=7, bit_size=1), 1),  # frozen:1
        (Member(0, 4, bit_offset=3, bit_size=7), (0x44332211 >> 3) & 0x7F),
        (Member(0, 8, bit_offset=0, bit_size=64), 0x8877665544332211),
        (Member(0, 16), 0x8877665544332211),  # of anything larger, its first word
    ],
    ids=str,
)
def test_a_column_is_one_member_of_many_structures(member: Member, value: int) -> None:
    row = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
    rows = np.array([[*row, *bytes(8)], [0] * 16, [*row, *bytes(8)]], np.uint8)
    assert access.column(rows, member).tolist() == [value, 0, value]
    assert access.column(rows[:0], member).tolist() == []


def test_a_member_at_the_end_of_a_structure_is_read_within_it() -> None:
    rows = np.array([[0] * 62 + [0x34, 0x12]], np.uint8)
    assert access.column(rows, Member(62, 2)).tolist() == [0x1234]
    # A bit field declared in an int whose last byte is the structure's last.
    assert access.column(rows, Member(63, 4, bit_offset=4, bit_size=4)).tolist() == [1]


RHEL7, RHEL8, DEBIAN12 = (3, 10), (4, 18), (6, 1)


@pytest.mark.parametrize(
    ("value", "release", "name"),
    [
        (0xDEAD000000100100, RHEL7, "LIST_POISON1"),
        (0xDEAD000000200200, RHEL7, "LIST_POISON2"),
        (0xDEAD000000000100, RHEL8, "LIST_POISON1"),
        (0xDEAD000000000200, RHEL8, "LIST_POISON2"),
        (0xDEAD000000000200, (5, 2), "LIST_POISON2"),
        (0xDEAD000000000122, (5, 3), "LIST_POISON2"),
        (0xDEAD000000000100, DEBIAN12, "LIST_POISON1"),
        (0xDEAD000000000122, DEBIAN12, "LIST_POISON2"),
    ],
)
def test_a_kernel_s_own_list_poison_needs_no_explanation(
    value: int, release: tuple[int, int], name: str
) -> None:
    text = markers.describe(markers.BY_VALUE[value], release)
    assert text == f"{name}: unlinked from its list and not freed since"


@pytest.mark.parametrize(
    ("value", "release", "generation"),
    [
        (0xDEAD000000100100, DEBIAN12, "kernels before 4.3"),
        (0xDEAD000000000200, DEBIAN12, "kernels from 4.3 to before 5.3"),
        (0xDEAD000000000122, RHEL7, "kernels since 5.3"),
        (0xDEAD000000000122, RHEL8, "kernels since 5.3"),
        (0xDEAD000000000100, None, "kernels since 4.3"),
    ],
)
def test_another_generation_s_poison_is_said_to_be_one(
    value: int, release: tuple[int, int] | None, generation: str
) -> None:
    """A back-port, a module's data or chance: it is recognised, and worded with care."""
    text = markers.describe(markers.BY_VALUE[value], release)
    assert f" of {generation}: " in text


def test_poison_of_all_kernels_is_worded_alike_for_all() -> None:
    marker = markers.BY_VALUE[0xDEAD000000000300]
    texts = {markers.describe(marker, r) for r in (RHEL7, DEBIAN12, None)}
    assert texts == {"TIMER_ENTRY_STATIC: a timer that is not pending"}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.1.0-56-amd64", (6, 1)),
        ("3.10.0-1160.el7.x86_64", (3, 10)),
        ("4.18.0-553.el8_10.x86_64", (4, 18)),
        ("6.18-rc1", (6, 18)),
        ("", None),
        ("v6.1", None),
        ("6", None),
    ],
)
def test_a_release_begins_with_its_version(release: str, expected: tuple[int, int] | None) -> None:
    assert markers.release_tuple(release) == expected

"""Where arm64 kernels have their memory: either half first, ranges told or not."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crashext.hosts.arm64 import arm64_ranges, untagged
from crashext.hosts.directmap import direct_map
from crashext.hosts.dumpfile import examine
from tests.fake import INFO

RAM = 0x40000000
# Of a guest of 6.1 with KASLR, which makes memstart_addr negative.
TOLD = {
    "SYMBOL(_stext)": "ffffbbc341210000",
    "NUMBER(VA_BITS)": "48",
    "NUMBER(MODULES_VADDR)": "0xffff800000000000",
    "NUMBER(MODULES_END)": "0xffff800008000000",
    "NUMBER(VMALLOC_START)": "0xffff800008000000",
    "NUMBER(VMALLOC_END)": "0xfffffbfff0000000",
    "NUMBER(VMEMMAP_START)": "0xfffffc0000000000",
    "NUMBER(VMEMMAP_END)": "0xfffffe0000000000",
    "NUMBER(PHYS_OFFSET)": "0xffffc74e40000000",
}
BARE = {name: TOLD[name] for name in ("SYMBOL(_stext)", "NUMBER(VA_BITS)")}


def nothing(name: str) -> int | None:
    """Of a dump whose variables cannot be read."""
    return None


def test_a_randomised_linear_map_is_where_a_guest_had_it() -> None:
    found = direct_map(replace(INFO, arch="aarch64", vmcoreinfo=TOLD), nothing)
    assert (found.start, found.stop) == (0xFFFF000000000000, 0xFFFF800000000000)
    assert found.physical(0xFFFF38B200000000) == RAM
    assert 0xFFFF38B200000000 in found
    assert 0xFFFFBBC341210000 not in found


def test_ranges_that_nobody_tells_follow_from_the_bits_of_addresses() -> None:
    told = arm64_ranges(TOLD, nothing, 12)
    found = arm64_ranges(BARE, {"memstart_addr": 0xFFFFC74E40000000}.get, 12)
    assert told is not None
    assert found is not None
    assert (found.linear, found.zero, found.modules) == (told.linear, told.zero, told.modules)
    assert found.vmalloc == told.vmalloc
    assert found.vmemmap[0] == told.vmemmap[0]
    assert found.vmemmap[1] >= told.vmemmap[1]


@pytest.mark.parametrize(("shift", "start"), [(14, 0xFFFFFF0000000000), (16, 0xFFFFFFC000000000)])
def test_larger_pages_have_a_smaller_memory_map(shift: int, start: int) -> None:
    found = arm64_ranges({**BARE, "NUMBER(PHYS_OFFSET)": "0x40000000"}, nothing, shift)
    assert found is not None
    assert found.vmemmap[0] == start
    assert found.linear[0] == 0xFFFF000000000000


def test_before_5_4_the_linear_map_is_the_upper_half() -> None:
    notes = {"SYMBOL(_stext)": "ffff000008080000", "NUMBER(VA_BITS)": "48"}
    found = arm64_ranges(notes, {"memstart_addr": RAM}.get, 12)
    assert found is not None
    assert found.linear == (0xFFFF800000000000, 1 << 64)
    assert found.zero + RAM == 0xFFFF800000000000
    assert found.vmemmap == (0xFFFF7E0000000000, 0xFFFF800000000000)
    assert found.modules[0] == 0xFFFF000000000000
    assert found.vmalloc[0] == found.modules[1] < found.vmalloc[1] < found.vmemmap[0]


def test_bits_of_39_are_three_levels_of_tables() -> None:
    notes = {"SYMBOL(_stext)": "ffffffc008010000", "NUMBER(VA_BITS)": "39"}
    found = arm64_ranges(notes, {"memstart_addr": RAM}.get, 12)
    assert found is not None
    assert found.linear == (0xFFFFFF8000000000, 0xFFFFFFC000000000)


@pytest.mark.parametrize(
    "damage",
    [
        {"NUMBER(VA_BITS)": "-3"},
        {"NUMBER(VA_BITS)": "many"},
        {"SYMBOL(_stext)": "0"},
        {"NUMBER(PHYS_OFFSET)": ""},
    ],
)
def test_nonsense_gives_no_ranges(damage: dict[str, str]) -> None:
    assert arm64_ranges({**TOLD, **damage}, nothing, 12) is None


def test_tags_come_off_kernel_addresses_alone() -> None:
    words = np.array([0xF3FF38B200001000, 0xFFFF38B200001000, 0x5500000012345678], np.uint64)
    expected = [0xFFFF38B200001000, 0xFFFF38B200001000, 0x5500000012345678]
    assert untagged(words).tolist() == expected


@pytest.mark.parametrize("count", [27, 34])
def test_registers_of_both_architectures_are_read_from_the_notes(
    tmp_path: Path, count: int
) -> None:
    registers = tuple(range(1, count + 1))
    body = bytes(112) + struct.pack(f"<{count}Q", *registers) + bytes(8)
    note = struct.pack("<III", 5, len(body), 1) + b"CORE\0\0\0\0" + body
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4)
    core = tmp_path / "core"
    core.write_bytes(header + segment + note)
    assert examine(core).registers == (registers,)

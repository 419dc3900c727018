"""Words that are tagged pointers of an arm64 kernel are read as the addresses that they mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.tags import PointerTags, pointer_tags
from tests.fake import INFO

ARM64 = replace(INFO, arch="aarch64", vmcoreinfo={"NUMBER(VA_BITS)": "48"})
CLEAN = 0xFFFF38B212345678


def tags(name: str, bits: int = 48) -> PointerTags:
    """Of a kernel that has a function of this name."""
    info = replace(ARM64, vmcoreinfo={"NUMBER(VA_BITS)": str(bits)})
    found = pointer_tags(info, {name: 1}.get)
    assert found is not None
    return found


HARDWARE, SOFTWARE = tags("kasan_init_hw_tags_cpu"), tags("__hwasan_tag_memory")


def tagged(tag: int, address: int = CLEAN) -> int:
    return address & (1 << 56) - 1 | tag << 56


def off(found: PointerTags, word: int) -> int:
    return int(found.off(np.array([word], np.uint64))[0])


@pytest.mark.parametrize(
    ("found", "tag"), [(HARDWARE, 0xF0), (HARDWARE, 0xFD), (SOFTWARE, 0), (SOFTWARE, 0x5A)]
)
def test_the_tag_of_a_pointer_is_taken_off(found: PointerTags, tag: int) -> None:
    assert off(found, tagged(tag)) == CLEAN


@pytest.mark.parametrize(
    "word",
    [
        *(0, 5, 0x0000FFFF9E5C1000, 0x5A00FFFF9E5C1000),  # a program's, with and without a tag
        *(0xF5FE38B212345678, 0x6B6B6B6B6B6B6B6B, CLEAN, (1 << 64) - 1),
    ],
)
def test_other_words_stay(word: int) -> None:
    assert off(HARDWARE, word) == off(SOFTWARE, word) == word


def test_hardware_has_tags_of_four_bits() -> None:
    assert off(HARDWARE, tagged(0x5A)) == tagged(0x5A)


def test_addresses_of_52_bits_are_known_too() -> None:
    address = 0xFFF038B212345678
    assert off(tags("__hwasan_tag_memory", 52), tagged(0x11, address)) == address
    assert off(SOFTWARE, tagged(0x11, address)) == tagged(0x11, address)


@pytest.mark.parametrize("start", range(8))
def test_words_are_whole_wherever_a_read_begins(start: int) -> None:
    """What is read in part at either end stays as it is."""
    words = [tagged(0xF1 + i, CLEAN + i) for i in range(4)]
    memory = b"".join(w.to_bytes(8, "little") for w in words)
    expected = b"".join((CLEAN + i).to_bytes(8, "little") for i in range(4))
    first, last = 8 * (start > 0), 24
    expected = memory[start:first] + expected[first:last] + memory[last:30]
    address = 0x1000 + start
    assert HARDWARE.off_bytes(address, memory[start:30]) == expected
    rows = np.tile(np.frombuffer(memory[start:30], np.uint8), (2, 1))
    HARDWARE.off_rows(np.array([address, address + 64], np.uint64), rows)
    assert [row.tobytes() for row in rows] == [expected] * 2


def test_too_little_for_a_word_stays() -> None:
    assert HARDWARE.off_bytes(0x1004, b"\xff" * 11) == b"\xff" * 11


def test_other_kernels_have_none() -> None:
    assert pointer_tags(ARM64, {"kasan_report": 1}.get) is None
    assert pointer_tags(INFO, {"kasan_init_hw_tags_cpu": 1}.get) is None

"""Calls are found in text made by hand; where they are in a real kernel is the lab's to say."""

from __future__ import annotations

import struct
from dataclasses import replace

from crashext.hosts.base import Module
from crashext.kernel.origin.callsites import find_calls
from tests.fake import INFO, FakeHost

TEXT = 0xFFFFFFFF81000000
ALLOC, FREE = TEXT + 0x800, TEXT - 0x1000
FAR = 0xFFFFFFFFC0000000


def branch(opcode: int, at: int, to: int) -> bytes:
    return bytes([opcode]) + struct.pack("<i", to - at - 5)


def host(text: bytes, arch: str = "x86_64", end: int = 0x1000) -> FakeHost:
    fake = FakeHost(
        symbols={"_text": TEXT, "_etext": TEXT + end},
        modules=[Module("late", ((FAR, FAR + 0x1000),))],
        info=replace(INFO, arch=arch),
    )
    fake.put(TEXT, text.ljust(0x1000, b"\x90"))
    return fake


def test_calls_and_tail_jumps_of_what_was_asked_for_alone() -> None:
    text = bytearray(b"\x90" * 0x100)
    text[0x10:0x15] = branch(0xE8, TEXT + 0x10, ALLOC)
    text[0x20:0x25] = branch(0xE9, TEXT + 0x20, FREE)
    text[0x30:0x35] = branch(0xE8, TEXT + 0x30, ALLOC + 1)  # into the middle of another
    found = find_calls(host(bytes(text)), {ALLOC: 7, FREE: 3})
    assert found.address.tolist() == [TEXT + 0x10, TEXT + 0x20]
    assert found.target.tolist() == [7, 3]
    assert found.jump.tolist() == [False, True]


def test_a_conditional_tail_jump_as_clang_makes_it() -> None:
    """je kfree, and as the last bytes of the text; a jump of one byte leads nowhere far."""
    text = bytearray(b"\x90" * 0x1000)
    for at in (0x10, 0xFFA):
        text[at : at + 6] = b"\x0f\x84" + struct.pack("<i", FREE - TEXT - at - 6)
    text[0x20:0x22] = b"\x74\x10"
    found = find_calls(host(bytes(text)), {ALLOC: 7, FREE: 3})
    assert found.address.tolist() == [TEXT + 0x10, TEXT + 0xFFA]
    assert found.jump.tolist() == [True, True]


def test_modules_are_looked_through_and_what_is_not_in_the_dump_is_counted() -> None:
    fake = host(b"")
    fake.put(FAR, branch(0xE8, FAR, ALLOC).ljust(0x800, b"\x90"))  # half a page: unreadable
    found = find_calls(fake, {ALLOC: 0})
    assert (found.address.tolist(), found.missing) == ([], 0x1000)
    fake.put(FAR + 0x1000, b"")
    fake.extents[FAR] = bytearray(branch(0xE8, FAR, ALLOC).ljust(0x1000, b"\x90"))
    found = find_calls(fake, {ALLOC: 0})
    assert (found.address.tolist(), found.missing) == ([FAR], 0)
    assert found.text == 0x2000


def test_a_call_across_two_pages() -> None:
    text = bytearray(b"\x90" * 0x2000)
    text[0xFFE:0x1003] = branch(0xE8, TEXT + 0xFFE, ALLOC)
    fake = host(b"", end=0x2000)
    fake.extents[TEXT] = text
    assert find_calls(fake, {ALLOC: 0}).address.tolist() == [TEXT + 0xFFE]


def test_arm64_branches_with_and_without_link() -> None:
    def word(link: bool, at: int, to: int) -> bytes:
        offset = (to - at) // 4 & 0x3FFFFFF
        return struct.pack("<I", (0x94000000 if link else 0x14000000) | offset)

    text = word(True, TEXT, ALLOC) + word(False, TEXT + 4, FREE) + b"\x1f\x20\x03\xd5"
    found = find_calls(host(text, "aarch64"), {ALLOC: 0, FREE: 1})
    assert found.address.tolist() == [TEXT, TEXT + 4]
    assert found.target.tolist() == [0, 1]
    assert found.jump.tolist() == [False, True]


def test_no_text_no_calls() -> None:
    assert find_calls(FakeHost(), {ALLOC: 0}).address.tolist() == []

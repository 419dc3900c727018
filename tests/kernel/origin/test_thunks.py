"""Calls that do not go to a function's first byte: encodings are the kernel's own."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.origin.callsites import find_calls
from crashext.kernel.origin.thunks import meant
from tests.fake import FakeHost

TEXT = 0xFFFFFFFF81000000
ALLOC = TEXT + 0x800
COUNTS = [
    b"\x65\x48\xc1\x3c\x25\x10\x64\x03\x00\x05",  # sarq $5, %gs:0x36410
    b"\x65\x48\xc1\x3d\x43\x27\x6b\x02\x05",  # sarq $5, %gs:0x26b2743(%rip)
]
LANDINGS = [b"\xf3\x0f\x1e\xfa", b"\x66\x0f\x1f\x00", b"\x0f\x1f\x40\xd6"]
NEITHER = b"\x0f\x1f\x44\x00\x00"


def host(before: bytes, first: bytes, to: int) -> FakeHost:
    """One call, of `to`, and a function with `before` in its padding."""
    text = bytearray(b"\x90" * 0x1000)
    text[0x10:0x15] = b"\xe8" + struct.pack("<i", to - (TEXT + 0x15))
    text[0x800 - len(before) : 0x800 + len(first)] = before + first
    fake = FakeHost(symbols={"_text": TEXT, "_etext": TEXT + 0x1000, "kfree": ALLOC})
    fake.put(TEXT, bytes(text))
    return fake


@pytest.mark.parametrize("counts", COUNTS)
def test_calls_that_are_counted_begin_before_the_function(counts: bytes) -> None:
    fake = host(counts, NEITHER, ALLOC - len(counts))
    assert find_calls(fake, {ALLOC: 5}).address.tolist() == [TEXT + 0x10]
    assert find_calls(fake, {ALLOC: 5}).target.tolist() == [5]
    assert meant(fake, ALLOC - len(counts)) == ALLOC
    assert meant(fake, ALLOC) == ALLOC


@pytest.mark.parametrize("landing", LANDINGS)
def test_a_direct_call_may_leave_out_the_landing_pad(landing: bytes) -> None:
    fake = host(b"", landing, ALLOC + 4)
    assert find_calls(fake, {ALLOC: 5}).address.tolist() == [TEXT + 0x10]
    assert meant(fake, ALLOC + 4) == ALLOC


@pytest.mark.parametrize("to", [ALLOC - 10, ALLOC - 9, ALLOC + 4])
def test_a_call_of_something_else_is_none(to: int) -> None:
    fake = host(b"\x90" * 16, NEITHER, to)
    assert find_calls(fake, {ALLOC: 5}).address.tolist() == []
    assert meant(fake, to) == to

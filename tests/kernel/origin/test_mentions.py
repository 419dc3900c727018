"""Which functions name a symbol: text made by hand, as assemblers encode it."""

from __future__ import annotations

import struct

from crashext.kernel.origin.mentions import Mentions

ONE, TWO = 0xFFFFFFFF81000000, 0xFFFFFFFF81000100
OPS, LISTS, OTHER = 0xFFFFFFFF82001230, 0xFFFFFFFF82002340, 0xFFFFFFFF82003450
IMAGE = [(0xFFFFFFFF81000000, 0xFFFFFFFF83000000)]


def test_x86_by_address_and_relative_with_an_operand_behind() -> None:
    text = b"\x90\x48\xc7\xc6" + struct.pack("<I", OPS & 0xFFFFFFFF)  # mov rsi, OPS
    # mov dword ptr [rip + LISTS], 1: four bytes follow the relative part
    at = TWO + 3
    other = b"\x90\xc7\x05" + struct.pack("<i", LISTS - (at + 8)) + struct.pack("<I", 1)
    other += b"\x48\x8d\x3d" + struct.pack("<i", OPS - (TWO + len(other) + 7))  # lea rdi
    known = Mentions({TWO: other, ONE: text}, IMAGE, arm64=False)
    assert known.of(OPS) == {ONE, TWO}
    assert known.of(LISTS) == {TWO}
    assert known.of(OTHER) == set()


def test_arm64_by_page_and_what_is_added() -> None:
    pages = (OPS >> 12) - (ONE + 4 >> 12)
    adrp = 0x90000001 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5  # x1
    nop, add = 0xD503201F, 0x91000021 | (OPS & 0xFFF) << 10  # add x1, x1, low
    text = b"".join(struct.pack("<I", w) for w in (nop, adrp, nop, add))
    known = Mentions({ONE: text}, IMAGE, arm64=True)
    assert known.of(OPS) == {ONE}
    assert known.of(OPS + 8) == set()


def test_arm64_by_what_is_added_to_another_variables_address() -> None:
    """What is in the register by then counts, and what a way out of the function puts back not."""
    pages = (OPS >> 12) - (ONE >> 12)
    adrp = 0x90000016 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5  # x22
    low = 0x910002D6 | (OPS & 0xFFF) << 10  # add x22, x22, low
    nop, back, load = 0xD503201F, 0xA94253F6, 0xF9400016  # ldp x22, x20, [sp]; ldr x22, [x0]
    add = 0x910002C2 | 0x10 << 10  # add x2, x22, 0x10

    def text(*words: int) -> bytes:
        return b"".join(struct.pack("<I", w) for w in words)

    begin = (adrp, low, *[nop] * 9)
    known = Mentions({ONE: text(*begin, back, add)}, IMAGE, arm64=True)
    assert known.of(OPS + 0x10) == {ONE}
    assert known.of(OPS) == {ONE}
    for apart in ({ONE: text(*begin, load, add)}, {ONE: text(*begin), TWO: text(add)}):
        assert Mentions(apart, IMAGE, arm64=True).of(OPS + 0x10) == set()


def test_nothing_names_anything_where_there_is_no_text() -> None:
    assert Mentions({}, IMAGE, arm64=False).of(OPS) == set()
    assert Mentions({ONE: b""}, IMAGE, arm64=True).of(OPS) == set()

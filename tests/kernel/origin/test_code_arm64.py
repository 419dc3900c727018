"""What registers hold in arm64 code, and what is stored: encodings are what an assembler makes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from crashext.hosts.base import Module
from crashext.kernel.origin.callsites import find_calls
from crashext.kernel.origin.code import Code
from crashext.kernel.origin.code_arm64 import ISA, Arm64Constants
from crashext.kernel.origin.constants import UNKNOWN, Value, Values, What
from crashext.kernel.origin.stores import Store, stores_after
from crashext.kernel.origin.stores_arm64 import Arm64Walk
from crashext.kernel.origin.thunks import meant
from tests.fake import INFO, FakeHost

AT = 0xFFFFBBC341210000
POINTED = 0xFFFF38B200001000
BL, RET = 0x94000000, 0xD65F03C0


def text_of(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def before_call(words: tuple[int, ...], register: str) -> Values:
    """What `register` holds at the call that follows."""
    code = Code(text_of(*words, BL), AT, ISA)
    return Arm64Constants(code, {AT + 0x38: POINTED}.get).before(len(words), register)


def numbers(*values: int) -> Values:
    return frozenset(Value(What.CONSTANT, n) for n in values)


MOV_X2_24 = 0xD2800302
MOV_W2_32, MOV_W2_64 = 0x52800402, 0x52800802


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((MOV_X2_24,), {24}),
        ((0x12800002,), {0xFFFFFFFF}),  # mov w2, #-1
        ((0xD2802002, 0xF2FBD5A2), {0xDEAD000000000100}),  # mov; movk x2, #0xdead, lsl #48
        ((0xD2800409, 0x91006122), {56}),  # mov x9, #32; add x2, x9, #24
        ((0x52800809, 0x2A0903E2), {64}),  # mov w9, #64; mov w2, w9
        ((0xD28000C9, 0xD37CED22), {96}),  # mov x9, #6; lsl x2, x9, #4
        ((0xD2800069, 0xD28000AA, 0x8B090D42), {29}),  # 5 + (3 << 3)
        # str x2 to the stack, mov x2, xzr, and back
        ((0xD2800C02, 0xF90007E2, 0xAA1F03E2, 0xF94007E2), {96}),
        # mov x2, #7; mov x3, #9; stp x2, x3; ldp x3, x2
        ((0xD28000E2, 0xD2800123, 0xA9010FE2, 0xA9410BE3), {9}),
        # mov w9, #32; mov w10, #64; cmp; csel w2, w9, w10, eq
        ((0x52800409, 0x5280080A, 0x7100001F, 0x1A8A0122), {32, 64}),
        ((MOV_W2_32, 0x34000040, MOV_W2_64), {32, 64}),  # cbz over the second
        ((0x52800613, BL, 0x2A1303E2), {48}),  # a callee keeps w19
        ((0x1A9F07E2,), {0, 1}),  # cset w2, ne
        ((MOV_W2_32, 0x1A820442), {32, 33}),  # cinc w2, w2, ne
        ((0xD281FE09, 0xD3441D22), {15}),  # mov x9, #0xff0; ubfx x2, x9, #4, #4
        ((0xAA1F03E2,), {0}),  # mov x2, xzr
    ],
)
def test_constants(words: tuple[int, ...], expected: set[int]) -> None:
    assert before_call(words, "x2") == numbers(*expected)


def test_what_nobody_knows() -> None:
    # A callee may change x2; one byte of memory; a load through what nobody knows, which moves it.
    for words in ((MOV_X2_24, BL), (0x39400002,), (0xF8408462,), (MOV_X2_24, 0xF8408443 | 2)):
        assert before_call(words, "x2") == {UNKNOWN}


def test_one_of_two_ways_is_not_known() -> None:
    words = (MOV_W2_32, 0x36180040, 0xF9400062)  # tbz over ldr x2, [x3]
    assert before_call(words, "x2") == {*numbers(32), UNKNOWN}


def test_arguments_of_the_function_itself() -> None:
    assert before_call((0xAA0103E2,), "x2") == {Value(What.ARGUMENT, 1)}  # mov x2, x1
    assert before_call((), "x0") == {Value(What.ARGUMENT, 0)}


def test_loads_of_a_variable_and_through_it() -> None:
    load = (0x90000000, 0xF9401C00)  # adrp x0; ldr x0, [x0, #0x38]
    assert before_call(load, "x0") == {Value(What.LOAD, AT + 0x38)}
    through = (*load, 0xF9401000)  # ldr x0, [x0, #0x20]
    assert before_call(through, "x0") == {Value(What.LOAD, POINTED + 0x20)}


def test_what_a_call_returned() -> None:
    assert before_call((BL,), "x0") == {Value(What.RESULT, AT)}


def test_what_is_stored_where_there_was_memory() -> None:
    words = (
        BL,
        0xB40000E0,  # cbz x0, to the end
        0xAA0003F3,  # mov x19, x0
        0xD2802002,  # mov x2, #0x100
        0xF2FBD5A2,  # movk x2, #0xdead, lsl #48
        0xA9017E62,  # stp x2, xzr, [x19, #0x10]
        0x91008001,  # add x1, x0, #0x20
        0xA9020661,  # stp x1, x1, [x19, #0x20]
        RET,
    )
    code = Code(text_of(*words), AT, ISA)
    known = Arm64Constants(code, lambda _: None)
    stores = stores_after(code, known, 0, way=Arm64Walk).stores
    assert [(s.offset, s.size, s.kind, int(s.value), s.certain) for s in stores] == [
        (0x10, 8, "value", 0xDEAD000000000100, True),
        (0x18, 8, "value", 0, True),
        (0x20, 8, "self", 0x20, True),
        (0x28, 8, "self", 0x20, True),
    ]
    assert isinstance(stores[0], Store)


def test_a_module_far_away_calls_through_its_table_of_jumps() -> None:
    """adrp x16; add x16, x16, #0x678; br x16: what KASLR makes of calls into the kernel."""
    base, target = AT - (1 << 31), AT + 0x1000 + 0x678
    pages = (target >> 12) - (base + 0x100 >> 12)
    adrp = 0x90000010 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    text = bytearray(0x200)
    text[0x100:0x10C] = text_of(adrp, 0x9119E210, 0xD61F0200)
    text[0x40:0x44] = text_of(BL | 0xC0 // 4)
    host = FakeHost(
        info=replace(INFO, arch="aarch64"), modules=[Module("far", ((base, base + 0x200),))]
    )
    host.put(base, bytes(text) + bytes(0xE00))
    found = find_calls(host, {target: 7})
    assert (found.address.tolist(), found.target.tolist()) == ([base + 0x40], [7])
    assert meant(host, base + 0x100) == target
    assert meant(host, base + 0x104) == base + 0x104

"""Sizes that come of a number which the object then holds, in functions made by hand."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.origin.code import ARGUMENTS, Code
from crashext.kernel.origin.code_arm64 import ISA, Arm64Constants
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.counting import Counting, counting
from crashext.kernel.origin.stores import Walk
from crashext.kernel.origin.stores_arm64 import Arm64Walk

AT = 0xFFFFFFFF81000000
CALL, RET = b"\xe8\0\0\0\0", b"\xc3"
KEPT = b"\x48\x89\xfd"  # mov rbp, rdi
HEAD = b"\x48\x8d\x3c\xfd\x40\0\0\0"  # lea rdi, [rdi*8 + 0x40]
SHL = b"\x48\xc1\xe7\x05\x48\x83\xc7\x58"  # shl rdi, 5; add rdi, 0x58
IMUL = b"\x48\x6b\xff\x38\x48\x83\xc7\x18"  # imul rdi, rdi, 0x38; add rdi, 0x18
OVERFLOW = b"\x48\xc7\xc0\xff\xff\xff\xff\x48\x0f\x43\xf8"  # mov rax, -1; cmovae rdi, rax
TO_0 = b"\x89\x28"  # [rax] = ebp
TO_8 = b"\x48\x89\x68\x08"  # [rax + 8] = rbp


def found(text: bytes) -> Counting | None:
    code = Code(text, AT)
    call = next(i for i, one in enumerate(code.all) if one.mnemonic == "call")
    return counting(Constants(code, lambda _: None), call, ARGUMENTS[0], Walk)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KEPT + HEAD + CALL + TO_0, Counting(0x40, 8, 0, 4)),
        (KEPT + HEAD + CALL + TO_8, Counting(0x40, 8, 8, 8)),
        (KEPT + HEAD + OVERFLOW + CALL + TO_0, Counting(0x40, 8, 0, 4)),
        (KEPT + SHL + CALL + TO_8, Counting(0x58, 32, 8, 8)),
        (KEPT + IMUL + CALL + TO_8, Counting(0x18, 0x38, 8, 8)),
        # Another copy of the number, made first: mov r12, rdi; ... [rax + 8] = r12
        (b"\x49\x89\xfc" + HEAD + CALL + b"\x4c\x89\x60\x08", Counting(0x40, 8, 8, 8)),
    ],
)
def test_a_size_of_a_number_that_is_kept(text: bytes, expected: Counting) -> None:
    assert found(text + RET) == expected


@pytest.mark.parametrize(
    "text",
    [
        KEPT + HEAD + CALL,  # it is not kept
        KEPT + HEAD + CALL + b"\x48\x89\x58\x08",  # another register is
        KEPT + HEAD + CALL + b"\x66\x89\x28",  # half of it: [rax] = bp
        KEPT + HEAD + CALL + b"\x48\x83\xc5\x01" + TO_8,  # one more: add rbp, 1
        KEPT + b"\x48\x8d\x3c\xfd\0\0\0\0" + CALL + TO_8,  # an array without a head
        KEPT + b"\x48\x8d\x7f\x40" + CALL + TO_8,  # bytes: lea rdi, [rdi + 0x40]
        KEPT + b"\x48\x8d\x3c\xf5\x40\0\0\0" + CALL + TO_8,  # of another one: rsi*8
        KEPT + b"\xbf\x40\0\0\0" + CALL + TO_8,  # constant
    ],
)
def test_what_is_no_such_size(text: bytes) -> None:
    assert found(text + RET) is None


def test_a_number_that_a_function_returned() -> None:
    text = CALL + b"\x48\x89\xc3\x48\x8d\x3c\xdd\x40\0\0\0" + CALL + b"\x89\x18" + RET
    code = Code(text, AT)
    known = Constants(code, lambda _: None)
    assert counting(known, 3, ARGUMENTS[0], Walk) == Counting(0x40, 8, 0, 4)


def test_two_numbers_that_ways_lead_to_are_none() -> None:
    # test edx, edx; je +3; mov rdi, rsi; the size of either; [rax] = ebp, which is the first
    text = KEPT + b"\x85\xd2\x74\x03\x48\x89\xf7" + HEAD + CALL + TO_0 + RET
    assert found(text) is None


@pytest.mark.parametrize(
    "made",
    [
        (0xD37DF000, 0x91010000),  # lsl x0, x0, #3; add x0, x0, #0x40
        (0xD2800801, 0x8B000C20),  # mov x1, #0x40; add x0, x1, x0, lsl #3
    ],
)
def test_arm64(made: tuple[int, int]) -> None:
    # mov x19, x0; ...; bl; str w19, [x0]; ret
    words = (0xAA0003F3, *made, 0x94000000, 0xB9000013, 0xD65F03C0)
    code = Code(struct.pack("<6I", *words), AT, ISA)
    known = Arm64Constants(code, lambda _: None)
    assert counting(known, 3, "x0", Arm64Walk) == Counting(0x40, 8, 0, 4)


def test_joins_of_joins_are_not_asked_about_without_end() -> None:
    """Nine joins that ten ways lead to each: a billion questions, were each asked."""
    way = b"\x74\x05\x48\x8d\x3f\xeb"  # je +5; lea rdi, [rdi]; jmp to the join
    join = b"".join(way + bytes([7 * (9 - i)]) for i in range(10))
    assert found(join * 9 + HEAD + CALL + TO_0 + RET) is None

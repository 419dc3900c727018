"""The least that a size can be, in functions made by hand."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.origin.code import Code
from crashext.kernel.origin.code_arm64 import ISA, Arm64Constants
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.least import least

AT = 0xFFFFFFFF81000000
CALL = b"\xe8\0\0\0\0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\x48\x8d\x3c\xc5\x18\0\0\0", 24),  # lea rdi, [rax*8 + 0x18]
        (b"\x48\x83\xc7\x40", 64),  # add rdi, 0x40
        (b"\x48\x8d\x47\x08\x48\x89\xc7\x48\x83\xc7\x10", 24),  # lea, mov, add
        (b"\x48\x83\xef\x08", 0),  # sub rdi, 8
        (b"\x48\xc1\xe7\x03", 0),  # shl rdi, 3
        (b"", 0),
        # lea rdi, [rax*8 + 0x18]; jae over; mov rdi, -1
        (b"\x48\x8d\x3c\xc5\x18\0\0\0\x73\x07\x48\xc7\xc7\xff\xff\xff\xff", 24),
        # lea rdi, [rax*8 + 0x18]; jae over; mov edi, 16
        (b"\x48\x8d\x3c\xc5\x18\0\0\0\x73\x05\xbf\x10\0\0\0", 16),
        # lea rdi, [rax*8 + 0x18]; mov rcx, -1; cmovb rdi, rcx
        (b"\x48\x8d\x3c\xc5\x18\0\0\0\x48\xc7\xc1\xff\xff\xff\xff\x48\x0f\x42\xf9", 24),
    ],
)
def test_a_sum_is_at_least_its_numbers(text: bytes, expected: int) -> None:
    code = Code(text + CALL, AT)
    at = code.at(AT + len(text))
    assert at is not None
    assert least(Constants(code, lambda _: None), at, "rdi") == expected


def test_on_arm64_too() -> None:
    # add x0, x1, x2, lsl #3; add x0, x0, #0x18; bl
    code = Code(struct.pack("<3I", 0x8B020C20, 0x91006000, 0x94000000), AT, ISA)
    assert least(Arm64Constants(code, lambda _: None), 2, "x0") == 24

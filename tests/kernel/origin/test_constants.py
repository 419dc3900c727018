"""What registers hold, in functions made by hand: the encodings are what an assembler makes."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.origin.code import Code
from crashext.kernel.origin.constants import UNKNOWN, Constants, Value, Values, What

AT = 0xFFFFFFFF81000000
POINTED = 0xFFFF888000001000
MOV_EDX, MOV_ESI = b"\xba", b"\xbe"
CALL = b"\xe8\0\0\0\0"


def edx(number: int) -> bytes:
    return MOV_EDX + struct.pack("<I", number)


def before_call(text: bytes, register: str) -> Values:
    """What `register` holds at the last call in `text`."""
    code = Code(text, AT)
    memory = {AT + 0x1000: POINTED}
    last = max(i for i, one in enumerate(code.all) if one.mnemonic == "call")
    return Constants(code, memory.get).before(last, register)


def constants(*numbers: int) -> Values:
    return frozenset(Value(What.CONSTANT, n) for n in numbers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (edx(0x18) + CALL, {0x18}),
        (b"\x31\xd2" + CALL, {0}),  # xor edx, edx
        (b"\x48\xc7\xc2\xff\xff\xff\xff" + CALL, {(1 << 64) - 1}),  # mov rdx, -1
        (b"\xb8\x20\0\0\0" + b"\x48\x8d\x50\x18" + CALL, {0x38}),  # mov eax; lea rdx, [rax + 24]
        (b"\xb9\x40\0\0\0" + b"\x48\x89\xca" + CALL, {0x40}),  # mov ecx; mov rdx, rcx
        # sbb edx, edx; and edx, 8; add edx, 24
        (b"\x19\xd2\x83\xe2\x08\x83\xc2\x18" + CALL, {0x18, 0x20}),
        # mov ecx, 64; cmovne edx, ecx
        (edx(32) + b"\xb9\x40\0\0\0" + b"\x0f\x45\xd1" + CALL, {32, 64}),
        # mov edx to the stack, and back
        (edx(96) + b"\x89\x54\x24\x08" + b"\x31\xd2" + b"\x8b\x54\x24\x08" + CALL, {96}),
        # test; je over the second mov: both ways meet at the call
        (edx(32) + b"\x85\xff\x74\x05" + edx(64) + CALL, {32, 64}),
        # a callee may not change rbx: mov ebx, 48; call; mov edx, ebx
        (b"\xbb\x30\0\0\0" + CALL + b"\x89\xda" + CALL, {48}),
    ],
)
def test_constants(text: bytes, expected: set[int]) -> None:
    assert before_call(text, "rdx") == constants(*expected)


def test_what_nobody_knows() -> None:
    # A callee may change rdx; so may memory that is not constant; 8 bits of a register are not it.
    for text in (edx(32) + CALL + CALL, b"\x48\x8b\x10" + CALL, edx(32) + b"\xb2\x01" + CALL):
        assert before_call(text, "rdx") == {UNKNOWN}


def test_one_of_two_ways_is_not_known() -> None:
    text = edx(32) + b"\x85\xff\x74\x03" + b"\x48\x8b\x10" + CALL  # je over mov rdx, [rax]
    assert before_call(text, "rdx") == {*constants(32), UNKNOWN}


def test_arguments_of_the_function_itself() -> None:
    assert before_call(b"\x48\x89\xf2" + CALL, "rdx") == {Value(What.ARGUMENT, 1)}  # mov rdx, rsi
    assert before_call(CALL, "rdi") == {Value(What.ARGUMENT, 0)}


def test_loads_of_a_variable_and_through_it() -> None:
    load = b"\x48\x8b\x3d" + struct.pack("<i", 0x1000 - 7)  # mov rdi, [rip + ...]
    assert before_call(load + CALL, "rdi") == {Value(What.LOAD, AT + 0x1000)}
    through = load + b"\x48\x8b\x7f\x20"  # mov rdi, [rdi + 32]
    assert before_call(through + CALL, "rdi") == {Value(What.LOAD, POINTED + 0x20)}


def test_a_slot_of_a_table_by_an_index_that_is_known() -> None:
    # mov eax, 5; mov rdi, [rax*8 + table]: kmalloc_caches[0][5]
    text = b"\xb8\x05\0\0\0" + b"\x48\x8b\x3c\xc5" + struct.pack("<i", -0x7F000000)
    table = (1 << 64) - 0x7F000000
    assert before_call(text + CALL, "rdi") == {Value(What.LOAD, table + 40)}


def test_a_loop_ends() -> None:
    text = edx(8) + b"\xff\xc2\x85\xff\x75\xfa" + CALL  # inc edx; test edi, edi; jne back
    assert UNKNOWN in before_call(text, "rdx")


def test_code_that_only_a_patched_branch_leads_to_passes_nothing_on() -> None:
    # mov edx, 32; jmp over a nop that nobody jumps to
    assert before_call(edx(32) + b"\xeb\x01\x90" + CALL, "rdx") == constants(32)


def test_damaged_text_is_short_code() -> None:
    assert not len(Code(b"\x06" * 16, AT).all)

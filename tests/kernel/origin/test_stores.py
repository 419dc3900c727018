"""What functions write into memory that they get, in functions made by hand."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from crashext.hosts.base import Host, Symbol
from crashext.kernel.origin.code import Code
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.stores import Filled, Walk, stores_after
from tests.fake import FakeHost
from tests.kernel.origin.peeking import known_callees

AT, CALLEE, OTHER = 0xFFFFFFFF81000000, 0xFFFFFFFF81000800, 0xFFFFFFFF81000C00
TEMPLATE, OPS = AT + 0x1000, 0xFFFFFFFF82001230
CALL = b"\xe8\0\0\0\0"  # of whoever allocates
RET = b"\xc3"


class Sized(FakeHost):
    """One whose functions have a size."""

    def symbol_at(self, address: int) -> Symbol | None:
        found = super().symbol_at(address)
        return None if found is None else replace(found, size=0x100)


def call(at: int, to: int, jump: bool = False) -> bytes:
    return (b"\xe9" if jump else b"\xe8") + struct.pack("<i", to - (at + 5))


def filled(text: bytes, *callees: tuple[int, bytes], words: tuple[int, ...] = ()) -> Filled:
    host = Sized(symbols={"allocate": AT, "init": CALLEE, "memcpy": OTHER})
    host.put(AT, text.ljust(0x100, b"\xcc"))
    for address, callee in callees:
        host.put(address, callee.ljust(0x100, b"\xcc"))
    memory = {TEMPLATE + 8 * i: word for i, word in enumerate(words)}

    def peek(address: int) -> int | None:
        return memory.get(address)

    code = Code(text, AT)
    called = known_callees(host, peek)
    return stores_after(code, Constants(code, peek), 0, called, Walk)


def told(found: Filled) -> list[tuple[int, str, int]]:
    return [(s.offset, s.kind, int(s.value)) for s in found.stores]


MOV_RDI_RAX = b"\x48\x89\xc7"
LEA_RDI_RAX_16 = b"\x48\x8d\x78\x10"
MOV_RSI_OPS = b"\x48\xc7\xc6" + struct.pack("<I", OPS & 0xFFFFFFFF)
LIST_HEAD = b"\x48\x89\x3f" + b"\x48\x89\x7f\x08"  # [rdi] = [rdi + 8] = rdi
STORE_RSI = b"\x48\x89\x77\x18"  # [rdi + 24] = rsi


@pytest.mark.parametrize("jump", [False, True])
def test_a_constructor_one_call_deep_writes_for_whoever_calls_it(jump: bool) -> None:
    before = CALL + LEA_RDI_RAX_16 + MOV_RSI_OPS
    text = before + call(AT + len(before), CALLEE, jump) + RET
    assert told(filled(text, (CALLEE, LIST_HEAD + STORE_RSI + RET))) == [
        (0x10, "self", 0x10),
        (0x18, "self", 0x10),
        (0x28, "value", OPS),
    ]


def test_two_calls_deep_and_whoever_calls_itself() -> None:
    text = CALL + MOV_RDI_RAX + call(AT + 8, CALLEE) + RET
    inner = call(CALLEE, OTHER + 0x100)
    host_text = (CALLEE, inner + call(CALLEE + 5, CALLEE) + RET)
    found = filled(text, host_text)
    assert found.stores == ()


def test_behind_a_branch_of_a_callee_nothing_is_certain() -> None:
    text = CALL + MOV_RDI_RAX + call(AT + 8, CALLEE) + RET
    branch = b"\x85\xf6\x74\x03"  # test esi, esi; je over what follows
    (one, two) = filled(text, (CALLEE, branch + LIST_HEAD + RET)).stores
    assert (one.certain, one.doubtful) == (False, True)
    assert (two.certain, two.doubtful) == (False, True)


def test_what_is_not_constant_is_known_by_its_place() -> None:
    text = CALL + b"\x48\x89\x50\x08" + RET  # [rax + 8] = rdx
    assert filled(text) == Filled((), (1,), returned=0)


def test_a_template_that_memcpy_copies() -> None:
    lea_rsi = b"\x48\x8d\x35" + struct.pack("<i", TEMPLATE - (AT + 15))
    text = CALL + MOV_RDI_RAX + lea_rsi + b"\xba\x10\0\0\0"
    text += call(AT + len(text), OTHER) + RET
    found = filled(text, words=(OPS, 7))
    assert told(found) == [(0, "value", OPS), (8, "value", 7)]
    assert all(s.doubtful for s in found.stores)


def test_a_template_that_an_instruction_copies() -> None:
    lea_rsi = b"\x48\x8d\x35" + struct.pack("<i", TEMPLATE - (AT + 15))
    text = CALL + MOV_RDI_RAX + lea_rsi + b"\xb9\x02\0\0\0" + b"\xf3\x48\xa5" + RET
    assert told(filled(text, words=(OPS, 7))) == [(0, "value", OPS), (8, "value", 7)]


def test_what_frees_it_or_is_not_there_adds_nothing() -> None:
    host: Host = Sized(symbols={"kfree": CALLEE})
    called = known_callees(host)
    assert called.written(CALLEE, 0) == ()
    assert called.written(OTHER, 0) == ()

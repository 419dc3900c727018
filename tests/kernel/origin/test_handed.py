"""Who is called by functions that name a symbol, in functions made by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from crashext.hosts.base import Symbol
from crashext.kernel.origin.handed import Handed
from crashext.kernel.origin.text import Text
from tests.fake import INFO, FakeHost

AT = 0xFFFFFFFF81000000
NAMING, ALLOCATING, OTHER = AT + 0x100, AT + 0x200, AT + 0x300
CALLBACK = 0xFFFFFFFF81000500
ARM = INFO.__class__("6.12.0", "aarch64", 4096, False, "vmcore", {"PAGESIZE": "4096"})


class Functions(FakeHost):
    """One with a function every 256 bytes."""

    def symbol_at(self, address: int) -> Symbol | None:
        return Symbol("some", address & ~0xFF, 0x100, "")


def handed(text: bytes, arch: str = "x86_64", symbol: int = CALLBACK, times: int = 1) -> set[int]:
    whole = bytearray(b"\xcc" * 0x1000)
    for i in range(times):
        whole[0x100 + 0x100 * i : 0x100 + 0x100 * i + len(text)] = text
    host = Functions(info=INFO if arch == "x86_64" else ARM)
    pieces = ((AT, np.frombuffer(bytes(whole), np.uint8)),)
    return set(Handed(host, Text(pieces)).of(symbol))


def call(at: int, to: int) -> bytes:
    return b"\xe8" + struct.pack("<i", to - at - 5)


def lea(at: int, to: int) -> bytes:
    return b"\x48\x8d\x35" + struct.pack("<i", to - at - 7)  # lea rsi, [rip + ...]


MOV = b"\x48\xc7\xc6" + struct.pack("<I", CALLBACK & 0xFFFFFFFF)  # mov rsi, symbol


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("absolute", [True, False])
def test_who_names_a_callback_hands_it_to_whom_it_calls(shift: int, absolute: bool) -> None:
    before = b"\x90" * shift
    text = before + (MOV if absolute else lea(NAMING + shift, CALLBACK))
    text += call(NAMING + len(text), ALLOCATING)
    assert handed(text) == {ALLOCATING}


def test_it_may_call_several() -> None:
    text = MOV + call(NAMING + 7, ALLOCATING) + call(NAMING + 12, OTHER)
    assert handed(text) == {ALLOCATING, OTHER}


def test_another_symbol_is_not_handed_on() -> None:
    text = MOV + call(NAMING + 7, ALLOCATING)
    assert handed(text, symbol=CALLBACK + 8) == set()


def test_what_anybody_names_is_handed_to_anybody() -> None:
    text = MOV + b"\xe8" + struct.pack("<i", 0x480)
    assert handed(text, times=8)
    assert handed(text, times=9) == set()


def test_a_function_that_calls_itself_alone_hands_nothing_on() -> None:
    assert handed(MOV + call(NAMING + 7, NAMING)) == set()


@pytest.mark.parametrize("between", [0, 2])
def test_arm64(between: int) -> None:
    # adrp x1, page of the symbol; add x1, x1, #0x500; bl
    words = [0x90000001, *[0xD503201F] * between, 0x91000000 | 0x500 << 10 | 1 << 5 | 1]
    at = NAMING + 4 * len(words)
    words.append(0x94000000 | (ALLOCATING - at) // 4)
    assert handed(struct.pack(f"<{len(words)}I", *words), "aarch64") == {ALLOCATING}


def test_on_arm64_another_register_is_another_address() -> None:
    words = [0x90000001, 0x91000000 | 0x500 << 10 | 2 << 5 | 1, 0x94000000 | 62]
    assert handed(struct.pack("<3I", *words), "aarch64") == set()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5])
def test_text_of_a_few_bytes_names_nothing(length: int) -> None:
    pieces = ((AT, np.zeros(length, np.uint8)),)
    assert set(Handed(Functions(), Text(pieces)).of(CALLBACK)) == set()


def test_text_that_is_nothing_but_a_symbol_hands_it_to_nobody() -> None:
    """All of it in one function, so that those who name it are few."""

    class One(FakeHost):
        def symbol_at(self, address: int) -> Symbol | None:
            asked.append(address)
            return Symbol("all", AT, 1 << 20, "")

    asked: list[int] = []
    noise = np.full(1 << 18, CALLBACK & 0xFFFFFFFF, "<u4").view(np.uint8)
    assert set(Handed(One(), Text(((AT, noise),))).of(CALLBACK)) == set()
    assert len(asked) < 5000

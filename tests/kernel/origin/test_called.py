"""How often functions are called, in text made by hand."""

from __future__ import annotations

from crashext.kernel.origin.called import Called
from crashext.kernel.origin.callsites import find_calls
from tests.kernel.origin.test_callsites import ALLOC, TEXT, branch, host
from tests.kernel.origin.test_callsites import FREE as OUTSIDE

FREE = TEXT + 0x900


def called(text: bytes, functions: list[int], arch: str = "x86_64") -> dict[int, int]:
    fake = host(text, arch)
    return Called(fake, find_calls(fake, {ALLOC: 0}).kept).times(functions)


def test_calls_and_tail_jumps_are_counted() -> None:
    text = bytearray(b"\x90" * 0x100)
    text[0x10:0x15] = branch(0xE8, TEXT + 0x10, ALLOC)
    text[0x20:0x25] = branch(0xE8, TEXT + 0x20, ALLOC)
    text[0x30:0x35] = branch(0xE9, TEXT + 0x30, FREE)
    text[0x40:0x45] = branch(0xE8, TEXT + 0x40, ALLOC + 1)
    assert called(bytes(text), [ALLOC, FREE, TEXT]) == {ALLOC: 2, FREE: 1, TEXT: 0}


def test_what_leads_out_of_all_text_only_looks_like_a_call() -> None:
    text = branch(0xE8, TEXT, OUTSIDE)
    assert called(text, [OUTSIDE]) == {OUTSIDE: 0}


def test_where_a_function_is_called_by_whatever_address() -> None:
    text = bytearray(b"\x90" * 0x1000)
    text[0x40:0x45] = branch(0xE8, TEXT + 0x40, ALLOC + 4)
    text[0x10:0x15] = branch(0xE9, TEXT + 0x10, ALLOC)
    text[0x800:0x804] = b"\xf3\x0f\x1e\xfa"
    fake = host(bytes(text))
    found = Called(fake, find_calls(fake, {ALLOC: 0}).kept).calls_of([ALLOC, FREE])
    assert found[ALLOC].tolist() == [TEXT + 0x10, TEXT + 0x40]
    assert not len(found[FREE])


def test_a_landing_pad_may_be_left_out() -> None:
    text = bytearray(b"\x90" * 0x1000)
    text[0x10:0x15] = branch(0xE8, TEXT + 0x10, ALLOC + 4)
    text[0x800:0x804] = b"\xf3\x0f\x1e\xfa"
    assert called(bytes(text), [ALLOC]) == {ALLOC: 1}


def test_arm64() -> None:
    words = [0x94000000 | (0x800 - at) // 4 for at in (0, 4)]
    text = b"".join(word.to_bytes(4, "little") for word in words)
    assert called(text, [ALLOC, FREE], "aarch64") == {ALLOC: 2, FREE: 0}


def test_no_functions_and_no_text() -> None:
    assert called(b"", []) == {}
    assert called(b"", [FREE]) == {FREE: 0}

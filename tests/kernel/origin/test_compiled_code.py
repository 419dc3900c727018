"""Code by compiled loops and by Python alone: the same of real text, damaged text and noise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ctypes import CDLL

import pytest

from crashext.kernel.origin import code, compiled_code
from crashext.kernel.origin.code import REGISTERS, X86_64, Code
from crashext.kernel.origin.compiled_code import CompiledCode
from tests.conftest import lab_view

_FUNCTIONS = ("vsnprintf", "tcp_ack", "kmem_cache_alloc", "kmemdup", "memcpy")
_WIDE = sorted({wide for wide, _ in REGISTERS.values()})


def assert_alike(loops: CDLL, data: bytes, address: int) -> int:
    """Of one piece of text everything that is asked; how many instructions it has."""
    one, two = Code(data, address), CompiledCode(loops, data, address, X86_64)
    count = len(one.all)
    assert len(two.all) == count
    assert list(two.all.addresses) == one.all.addresses
    assert list(two.all) == list(one.all)
    for i in range(0, count, max(1, count // 8)):
        for first in (i, i + 1):
            operands = one.all[i].operands
            assert two.all.operate_on(operands, first) == one.all.operate_on(operands, first)
    written = {name for i in range(count) for name in one.writes(i)} - {""}
    for i in range(count):
        assert two.writes(i) == one.writes(i), one.all[i]
        assert two.touches(i) == one.touches(i), one.all[i]
        touched = one.touches(i)
        names = {"rax", "r15", "rsp", *(touched or ()), *sorted(written)[i % 7 :: 7]} - {""}
        for name in sorted(names | {"[rsp + 8]", "[rbp - 0x38]"}):
            about = one.about(i, i + 1, (name,)) == i
            assert (two.about(i, i + 1, (name,)) == i) is about, (one.all[i], name)
    slots = sorted(name for name in written if name.startswith("["))
    for i in range(0, count, max(1, count // 8)):
        for name in (*_WIDE, *slots[:4], "[rsp + 8]", "eax"):
            for most in (4, 4000):
                one._reached.clear()
                two._reached.clear()
                assert two.set_last(name, i, most) == one.set_last(name, i, most), (name, i)
    return count


def texts() -> Iterator[tuple[bytes, int]]:
    host = lab_view("default").host
    for name in _FUNCTIONS:
        address = host.address_of(name)
        assert address is not None
        symbol = host.symbol_at(address)
        assert symbol is not None
        yield host.read(address, symbol.size), address


def test_real_text(library: CDLL) -> None:
    assert sum(assert_alike(library, data, address) for data, address in texts()) > 1000


def test_damaged_text(library: CDLL) -> None:
    chance = random.Random(5)
    for data, address in texts():
        damaged = bytearray(data[:600])
        for _ in range(40):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        assert_alike(library, bytes(damaged), address)


@pytest.mark.parametrize("address", [0, 0xFFFFFFFF81000000, (1 << 64) - 4096])
def test_noise(library: CDLL, address: int) -> None:
    """Of noise an instruction in a few makes no sense, and ends it."""
    chance = random.Random(address)
    assert sum(assert_alike(library, chance.randbytes(200), address) for _ in range(300)) > 300
    assert_alike(library, b"", address)


def test_spellings(library: CDLL) -> None:
    """What occurs seldom: slots by other segments, exchanges, ends with prefixes."""
    text = bytes.fromhex(
        "65488b442408"  # mov rax, qword ptr gs:[rsp + 8]
        "64488b442408"  # the same of fs
        "48874424f8"  # xchg qword ptr [rsp - 8], rax
        "f0480fb14d10"  # lock cmpxchg qword ptr [rbp + 0x10], rcx
        "488984c8ffffff7f"  # mov qword ptr [rax + rcx*8 + 0x7fffffff], rax
        "4889842410000080"  # mov qword ptr [rsp - 0x7ffffff0], rax
        "f3c3f2c3"  # repz ret; repne ret
        "48f7e148f7f9480fafc1"  # mul, idiv, imul
        "8f4424088f0424"  # pop qword ptr [rsp + 8]; pop qword ptr [rsp]
        "f3aa7400ebfe"  # rep stosb; je; jmp
    )
    assert assert_alike(library, text, 0x1000) == 16


def test_which_is_used(library: CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_code, "library", lambda: library)
    assert type(compiled_code.code_of(b"\xc3", 0, X86_64)) is CompiledCode
    monkeypatch.setattr(compiled_code, "library", lambda: None)
    assert type(compiled_code.code_of(b"\xc3", 0, code.X86_64)) is Code

"""Program headers as pyelftools reads them; what does not parse is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from crashext.hosts.elfheaders import PT_LOAD, PT_NOTE, read_headers
from tests.hosts.test_dumpfile import CORE, elf

NAMES = {"PT_NOTE": PT_NOTE, "PT_LOAD": PT_LOAD}


def by_pyelftools(data: bytes) -> list[tuple[int, int, int, int]]:
    segments = ELFFile(io.BytesIO(data)).iter_segments()
    return [(NAMES[s["p_type"]], s["p_offset"], s["p_paddr"], s["p_filesz"]) for s in segments]


def ours(data: bytes) -> list[tuple[int, int, int, int]]:
    return [(s.type, s.offset, s.physical, s.size) for s in read_headers(io.BytesIO(data)).segments]


def counted_apart(count: int) -> bytes:
    """A core of more segments than e_phnum can say, as the largest machines write one."""
    data = elf([(PT_LOAD, 4096, n << 12, 4096) for n in range(count)], 8192)
    section = bytearray(64)
    struct.pack_into("<I", section, 44, count)
    head = bytearray(data[:64])
    struct.pack_into("<Q", head, 40, len(data))  # e_shoff
    struct.pack_into("<HHHHH", head, 54, 56, 0xFFFF, 64, 1, 0)
    return bytes(head) + data[64:] + bytes(section)


@pytest.mark.parametrize("data", [CORE, elf([], 64), counted_apart(7)])
def test_they_are_pyelftools(data: bytes) -> None:
    assert ours(data) == by_pyelftools(data)


def test_a_real_program_s() -> None:
    program = Path("/proc/self/exe").read_bytes()
    found = [s.offset for s in read_headers(io.BytesIO(program)).segments]
    assert found == [s["p_offset"] for s in ELFFile(io.BytesIO(program)).iter_segments()]
    assert found


@pytest.mark.parametrize(
    "data",
    [
        CORE[:40],
        b"\x7fELF\1" + CORE[5:],
        CORE[:100],
        CORE[:32] + b"\xff" * 8 + CORE[40:],
        counted_apart(7)[:-1],
    ],
)
def test_what_does_not_parse(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|segments"):
        read_headers(io.BytesIO(data))

"""The header and the program headers of a 64-bit little-endian ELF file, as a core dump has them.

pyelftools takes longer to import than most dumps' headers to read; sections and notes by name,
which debug files have, are left to it. Source: include/uapi/linux/elf.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

PT_LOAD, PT_NOTE = 1, 4
_MAGIC = b"\x7fELF"
_64_LITTLE = b"\2\1"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = 64
_PN_XNUM = 0xFFFF  # more segments than fit: how many is in sh_info of the first section
_MOST = 1 << 24
MOST_OFFSET = (1 << 63) - 1  # in a file


class Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    virtual: int
    physical: int
    size: int
    """In the file."""
    memory: int
    align: int


@dataclass(frozen=True)
class Headers:
    """What they say; the segments in the file's order."""

    type: int
    flags: int
    segments: tuple[Segment, ...]


def read_headers(file: BinaryIO) -> Headers:
    """Raises `ValueError` where they do not parse."""
    file.seek(0)
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:4] != _MAGIC or head[4:6] != _64_LITTLE:
        raise ValueError("no header of a 64-bit little-endian ELF file")
    kind, _, _, _, at, sections, flags, _, entry, count, *_ = _HEADER.unpack(head)
    if count == _PN_XNUM:
        file.seek(min(sections, MOST_OFFSET))
        first = file.read(_SECTION)
        if not sections or len(first) < _SECTION:
            raise ValueError("the number of segments is not there")
        (count,) = struct.unpack_from("<I", first, 44)
    if (count and entry != _PROGRAM.size) or count > _MOST or at >= MOST_OFFSET:
        raise ValueError("program headers of an impossible size")
    file.seek(at)
    table = file.read(entry * count)
    if len(table) < entry * count:
        raise ValueError("the program headers end early")
    found = (Segment(*_PROGRAM.unpack_from(table, i)) for i in range(0, len(table), entry or 1))
    return Headers(kind, flags, tuple(found))

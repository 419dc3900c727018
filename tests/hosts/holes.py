"""Dumps with holes: a page-table page that is left out, memory that was to come after the end."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import drgn
from drgn.helpers.linux.pid import find_task

from tests.lab import Dump

_HEADER = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_LOAD = 1


def without_a_page_table(dump: Dump, path: Path) -> int:
    """Write `dump` to `path` without the page table that translates the first task's stack.

    Returns the first address that it translated.
    """
    program = drgn.Program()
    program.set_core_dump(str(dump.vmcore))
    program.load_debug_info([str(dump.vmlinux)], main=True)
    region = int(find_task(program, 1).stack) >> 21
    table = program.symbol("init_top_pgt").address
    for shift in (39, 30, 21):
        entry = program.read_u64(table + 8 * (((region << 21) >> shift) & 511))
        page = entry & 0x000F_FFFF_FFFF_F000
        table = int(program["page_offset_base"]) + page
    _cut(dump.vmcore, [(page, page + 4096)], path)
    return region << 21


def ending_before(vmcore: Path, lost: list[tuple[int, int]], path: Path) -> Path:
    """Copy an ELF dump that was to have physical ranges at its end, and has ended before them."""
    return _cut(vmcore, lost, path, vmcore.stat().st_size)


def _cut(vmcore: Path, lost: list[tuple[int, int]], path: Path, end: int = 0) -> Path:
    """Copy an ELF dump without ranges of its memory: left out, or from offset `end` on."""
    data = bytearray(vmcore.read_bytes())
    (at,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = []
    for number in range(count):
        header = _HEADER.unpack_from(data, at + number * _HEADER.size)
        kind, flags, offset, virtual, start, size, _, align = header
        edges = {edge for some in lost for edge in some if start < edge < start + size}
        if kind != _LOAD or not size:
            headers.append(header)
            continue
        for a, b in pairwise(sorted({start, start + size, *edges})):
            here, address = offset + a - start, virtual and virtual + a - start
            if any(low <= a < high for low, high in lost):
                if not end:
                    continue
                here, end = end, end + b - a
            headers.append((kind, flags, here, address, a, b - a, b - a, align))
    assert at + len(headers) * _HEADER.size <= min(header[2] for header in headers)
    for number, header in enumerate(headers):
        _HEADER.pack_into(data, at + number * _HEADER.size, *header)
    struct.pack_into("<H", data, 56, len(headers))
    path.write_bytes(data)
    return path

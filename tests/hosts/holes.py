"""Dumps with a hole: a page-table page is left out, as in a dump that was cut short."""

from __future__ import annotations

import struct
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
    _cut(dump.vmcore, page, path)
    return region << 21


def _cut(vmcore: Path, page: int, path: Path) -> None:
    """Copy an ELF dump, the segment around a physical page split in two."""
    data = bytearray(vmcore.read_bytes())
    (at,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = []
    for number in range(count):
        kind, flags, offset, virtual, start, size, memory, align = _HEADER.unpack_from(
            data, at + number * _HEADER.size
        )
        if kind == _LOAD and start <= page < start + size:
            before = page - start
            headers.append((kind, flags, offset, virtual, start, before, before, align))
            after = before + 4096
            offset, start = offset + after, start + after
            virtual, size, memory = virtual and virtual + after, size - after, memory - after
        headers.append((kind, flags, offset, virtual, start, size, memory, align))
    assert at + len(headers) * _HEADER.size <= min(header[2] for header in headers)
    for number, header in enumerate(headers):
        _HEADER.pack_into(data, at + number * _HEADER.size, *header)
    struct.pack_into("<H", data, 56, len(headers))
    path.write_bytes(data)

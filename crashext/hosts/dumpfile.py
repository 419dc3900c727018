"""What a dump file says about itself before anything opens it: format, completeness, pages held.

Two formats are read here: ELF cores (/proc/vmcore, QEMU, makedumpfile -E) and makedumpfile's
compressed kdump; both also flattened. Others are left to the host that opens them. A file that ends
too early holds the pages before its end, which are most of them: what is missing is said, and is
not `present`.

Sources: include/uapi/linux/elf.h; makedumpfile 1.7.2 diskdump_mod.h, elf_info.h, IMPLEMENTATION.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import HostError
from crashext.hosts.elfheaders import MOST_OFFSET, PT_LOAD, PT_NOTE, read_headers
from crashext.hosts.flattened import is_flattened, open_dump
from crashext.hosts.signature import ELF, KDUMP, LENGTH, no_dump
from crashext.wording import size_text

_NO_PHYSICAL_ADDRESS = (1 << 64) - 1  # /proc/kcore, for areas that are not RAM
_PIECE = 1 << 20
PAGE_DESC = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
MAX_NOTES = 1 << 24
_NT_PRSTATUS, _PR_REG = 1, 112
_PR_AFTER = 8  # bytes after the registers: pr_fpvalid, and padding
_REGISTERS = (27, 34)  # struct user_regs_struct of x86-64, struct user_pt_regs of arm64
_MAX_BITMAP = 1 << 30  # 32 TiB of 4 KiB pages; more is a damaged header
_PAGE = 4096
_NO_SPACE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE of status
_NO_SPACE_ELF = 0x1  # DUMP_ELF_INCOMPLETE of e_flags


@dataclass(frozen=True)
class DumpFile:
    """Format and coverage of one dump file."""

    format: str
    present: tuple[tuple[int, int], ...] | None
    """Physical ranges (start, end) that the file holds; None: the format was not read."""
    registers: tuple[tuple[int, ...], ...] = ()
    """Of each CPU, in the order of struct user_regs_struct (arm64: user_pt_regs); empty where
    the file has no notes."""
    level: int = 0
    """What makedumpfile left out: 1 zero pages, 2 and 4 page cache, 8 user pages, 16 free ones."""
    damage: str = ""
    """Why pages are missing that the file was to hold, and how much that is; "" where none is."""
    flattened: bool = False
    """Whether the file is a list of writes to what is described here."""

    @property
    def unsafe(self) -> bool:
        """Whether libkdumpfile must not read it: it maps the file, and a page that would lie past
        its end is the end of the process (SIGBUS)."""
        return bool(self.damage) and self.format.startswith("kdump")


def examine(path: Path) -> DumpFile:
    """Look at the headers of `path`.

    Raises `HostError` with one line for the user when the file is missing, unreadable, no dump,
    or so short that it holds no memory.
    """
    try:
        with open_dump(path) as file:
            head = file.read(LENGTH)
            why = no_dump(path, head)
            if why:
                raise HostError(why)
            if head.startswith(ELF):
                return replace(_elf(path, file), flattened=is_flattened(file))
            if head.startswith(KDUMP):
                return replace(_kdump(path, file), flattened=is_flattened(file))
    except OSError as error:
        raise HostError(f"cannot open dump {path}: {error.strerror}") from error
    return DumpFile("other", None)


def examined(dump: Path) -> DumpFile:
    """The same of a dump that crash has opened: errors here say nothing."""
    try:
        return examine(dump)
    except HostError:
        return DumpFile("other", None)


def build_id(path: Path) -> str | None:
    """GNU build ID of an ELF file in hex; None if it has none. Raises `HostError` if no ELF."""
    # A dump alone does without them.
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import NoteSection

    damage = (ELFError, ConstructError, ValueError, KeyError, AssertionError)  # as it raises them
    try:
        with path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, NoteSection):
                    for note in section.iter_notes():
                        if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU":
                            return str(note["n_desc"])
    except OSError as error:
        raise HostError(f"cannot open debug file {path}: {error.strerror}") from error
    except damage as error:
        raise HostError(f"{path} is not an ELF debug file") from error
    return None


def _elf(path: Path, file: BinaryIO) -> DumpFile:
    length = file.seek(0, 2)
    endless = not path.is_file()  # /proc/kcore is as long as the address space
    ranges, end, lost, notes = [], 0, 0, b""
    try:
        elf = read_headers(file)
        for segment in elf.segments:
            offset, start, size = segment.offset, segment.physical, segment.size
            end = max(end, offset + size)
            if segment.type == PT_NOTE and size <= MAX_NOTES and offset < MOST_OFFSET:
                file.seek(offset)
                notes += file.read(size)
            if segment.type == PT_LOAD and size and start != _NO_PHYSICAL_ADDRESS:
                held = size if endless else min(size, max(0, length - offset) & -_PAGE)
                lost += size - held
                if held:
                    ranges.append((start, start + held))
    except ValueError as error:
        raise HostError(f"{path} is a damaged ELF file: its headers do not parse") from error
    damage = ""
    if not endless and length < end:
        damage = _truncated(length, end)
    elif elf.flags & _NO_SPACE_ELF:
        damage = _UNFINISHED
    if lost and not ranges:
        raise HostError(f"{path} is {damage}: it holds no memory; {_AGAIN}")
    if is_flattened(file) and not ranges:
        raise HostError(
            f"{path} is truncated: the headers of a flattened ELF file are written last, and they "
            f"are missing; {_AGAIN}"
        )
    present = tuple(_merge(ranges))
    return DumpFile("ELF", present, _registers(notes), damage=_missing(damage, lost, present))


def _kdump(path: Path, file: BinaryIO) -> DumpFile:
    """disk_dump_header, kdump_sub_header, two bitmaps, then one page_desc per dumped page."""
    length = file.seek(0, 2)
    file.seek(0)
    header = file.read(464)
    if len(header) < 464:
        _require_length(path, length, 464)
    block, sub_blocks, bitmap_blocks, max_mapnr = struct.unpack_from("<iiII", header, 428)
    if not (512 <= block <= 1 << 20 and 0 < sub_blocks < 1 << 16 and max_mapnr):
        raise HostError(f"{path} is a damaged kdump file: its header makes no sense")
    if (version := struct.unpack_from("<i", header, 8)[0]) >= 6:  # max_mapnr_64, for > 16 TiB
        file.seek(block + 96)
        wide = file.read(8)
        max_mapnr = max(max_mapnr, struct.unpack("<Q", wide)[0]) if len(wide) == 8 else max_mapnr
    _refuse_part(path, file, version, block)
    bitmap_at, bitmap_size = (1 + sub_blocks) * block, bitmap_blocks * block
    if bitmap_size > _MAX_BITMAP:
        raise HostError(f"{path} is a damaged kdump file: its page bitmap would be too large")
    _require_length(path, length, bitmap_at + bitmap_size)
    # The first bitmap says which pages exist, the second which were written.
    both = bitmap_size * 8 >= max_mapnr * 2
    half = bitmap_size // 2 if both else bitmap_size
    if half * 8 < max_mapnr:
        raise HostError(f"{path} is a damaged kdump file: its bitmap is too small for its pages")
    pages = _pages(
        file, bitmap_at + (half if both else 0), max_mapnr, bitmap_at + bitmap_size, length
    )
    level, registers = _sub_header(file, version, block, length)
    present = tuple((a * block, b * block) for a, b in pages.runs)
    damage = ""
    if length < pages.end:
        damage = _truncated(length, pages.end)
    elif struct.unpack_from("<I", header, 424)[0] & _NO_SPACE:
        damage = _UNFINISHED
    elif pages.lost:
        damage = "damaged: its table of pages leads nowhere"
    if pages.lost and not pages.runs:
        raise HostError(f"{path} is {damage}: it holds no memory; {_AGAIN}")
    damage = _missing(damage, pages.lost * block, present)
    return DumpFile(f"kdump {version}", present, registers, level, damage)


def _refuse_part(path: Path, file: BinaryIO, version: int, block: int) -> None:
    """One of several files of a dump: its bitmap is of the whole, its table of pages is not."""
    file.seek(block + 12)
    split = file.read(20)  # kdump_sub_header: int split; unsigned long start_pfn, end_pfn
    if version >= 2 and len(split) == 20 and split[:4] == b"\1\0\0\0":
        raise HostError(
            f"{path} is one part of a split dump: join all of them first with: "
            f"makedumpfile --reassemble {path} OTHERS... NEW"
        )


def _sub_header(
    file: BinaryIO, version: int, block: int, length: int
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """dump_level, and the registers in the notes (kdump_sub_header, version 4 and later)."""
    file.seek(block)
    header = file.read(64)
    if len(header) < 64 or version < 4:
        return 0, ()
    (level,) = struct.unpack_from("<i", header, 8)
    at, size = struct.unpack_from("<QQ", header, 48)
    if not 0 < size <= MAX_NOTES or at + size > length:
        return level & 31, ()
    file.seek(at)
    return level & 31, _registers(file.read(size))


def _registers(notes: bytes) -> tuple[tuple[int, ...], ...]:
    """pr_reg of each NT_PRSTATUS note (include/linux/elfcore.h); damage ends the walk.

    It is what lies between members of fixed sizes, on every 64-bit architecture.
    """
    found = []
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from("<III", notes, at)
        body = at + 12 + (name + 3 & ~3)
        count = (size - _PR_REG - _PR_AFTER) // 8
        if kind == _NT_PRSTATUS and notes[at + 12 : at + 16] == b"CORE" and count in _REGISTERS:
            if body + size > len(notes):
                break
            found.append(struct.unpack_from(f"<{count}Q", notes, body + _PR_REG))
        at = body + (size + 3 & ~3)
    return tuple(found)


@dataclass(frozen=True)
class _Pages:
    """What a kdump's bitmap and table of pages say."""

    runs: list[tuple[int, int]]
    """Page frames [a, b) whose data is in the file."""
    lost: int
    """Page frames whose data was to be there."""
    end: int
    """How long the file was to be, as far as the table still says."""


def _pages(file: BinaryIO, bitmap: int, count: int, table: int, length: int) -> _Pages:
    """Of `count` page frames, those of the bitmap whose data, by the table, is within `length`.

    In pieces: the bitmap of a large machine, a byte a bit, would not fit the memory budget.
    """
    runs: list[tuple[int, int]] = []
    total = lost = end = 0
    for begin in range(0, count, _PIECE):
        file.seek(bitmap + begin // 8)
        data = np.frombuffer(file.read(_PIECE // 8), np.uint8)
        bits = np.unpackbits(data, bitorder="little")[: count - begin]
        here = np.flatnonzero(bits)
        file.seek(table + PAGE_DESC.itemsize * total)
        rows = _rows(file, len(here))
        total += len(here)
        offset, size = rows["offset"], rows["size"].astype(np.uint64)
        # Of a page that there was no room for makedumpfile leaves nothing here.
        there = (offset != 0) & (size != 0) & (offset <= np.uint64(length))
        there &= size <= np.uint64(length) - np.minimum(offset, np.uint64(length))
        plausible = offset < np.uint64(1 << 62)
        end = max(end, int((offset + size)[plausible].max(initial=0)))
        missing = np.concatenate([here[: len(rows)][~there], here[len(rows) :]])
        lost += len(missing)
        bits[missing] = 0
        edges = np.flatnonzero(np.diff(bits.view(np.int8), prepend=np.int8(0), append=np.int8(0)))
        for a, b in (edges.reshape(-1, 2) + begin).tolist():
            if runs and runs[-1][1] == a:
                runs[-1] = (runs[-1][0], b)
            else:
                runs.append((a, b))
    return _Pages(runs, lost, max(end, table + PAGE_DESC.itemsize * total))


def _rows(file: BinaryIO, count: int) -> NDArray[np.void]:
    """So many rows of the table of pages, or those before the end of the file."""
    data = file.read(PAGE_DESC.itemsize * count)
    return np.frombuffer(data, PAGE_DESC, len(data) // PAGE_DESC.itemsize)


_AGAIN = "copy it again or free space where it is written"
_UNFINISHED = "incomplete: makedumpfile found no space to finish it"


def _require_length(path: Path, length: int, needed: int) -> None:
    if length < needed:
        raise HostError(f"{path} is {_truncated(length, needed)}; {_AGAIN}")


def _truncated(length: int, needed: int) -> str:
    return f"truncated: its headers describe {needed:,} bytes, it has {length:,}"


def _missing(damage: str, lost: int, present: tuple[tuple[int, int], ...]) -> str:
    """The damage, and how much memory it costs; nothing where that is none."""
    if not lost:
        return ""
    whole = lost + sum(end - start for start, end in present)
    return f"{damage}; {size_text(lost)} of the {size_text(whole)} of memory in it are missing"


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged

"""The ELF file of a generated dump: the base dump's memory, patched, and more of it.

Segments may share bytes of the file: that is how one page of content stands for many. What nobody
wrote is a hole in the file and takes no disk.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr, elf(5)
_PROGRAM = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_PT_LOAD, _PT_NOTE = 1, 4
_MAX_SEGMENTS = (1 << 16) - 2  # more take a section header
_ROOM = -(-_PROGRAM.size * _MAX_SEGMENTS // (1 << 20)) << 20
_COPY, _GRAIN = 1 << 22, 1 << 16
PAGE = 4096


class Image:
    """A dump that is being written."""

    def __init__(self, base: Path, target: Path) -> None:
        self._fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._segments: list[tuple[int, int, int]] = []  # physical address, bytes, offset
        self._own: list[tuple[int, int, int]] = []
        """Those that can be read and written, by address."""
        self._end = _ROOM
        self._notes = b""
        self._elf: list[int | bytes] = []
        with base.open("rb") as file:
            self._copy(file.fileno())

    def _copy(self, base: int) -> None:
        """The base dump's notes and memory, zeros left out."""
        self._elf = list(_HEADER.unpack(os.pread(base, _HEADER.size, 0)))
        phoff, size, count = (int(self._elf[i]) for i in (5, 9, 10))
        for i in range(count):
            kind, _, offset, _, start, length, _, _ = _PROGRAM.unpack(
                os.pread(base, _PROGRAM.size, phoff + size * i)
            )
            if kind == _PT_NOTE:
                self._notes += os.pread(base, length, offset)
            if kind != _PT_LOAD:
                continue
            at = self.room(length)
            for begin in range(0, length, _COPY):
                data = os.pread(base, min(_COPY, length - begin), offset + begin)
                for i in range(0, len(data), _GRAIN):
                    piece = data[i : i + _GRAIN]
                    if piece.count(0) != len(piece):
                        os.pwrite(self._fd, piece, at + begin + i)
            self.add(start, length, at, own=True)

    def room(self, size: int) -> int:
        """Offset of so many bytes of the file that are nobody's yet."""
        at = self._end
        self._end += -(-size // PAGE) * PAGE
        return at

    def add(self, start: int, size: int, offset: int, own: bool = False) -> None:
        """Physical memory at `start` is what the file has at `offset`."""
        self._segments.append((start, size, offset))
        if own:
            self._own = sorted([*self._own, (start, size, offset)])

    def _at(self, start: int, size: int) -> int:
        i = bisect_right(self._own, (start, 1 << 64, 0)) - 1
        first, length, offset = self._own[i]
        if i < 0 or start + size > first + length:
            raise ValueError(f"physical memory at {start:#x} is not this dump's own")
        return offset + start - first

    def read(self, start: int, size: int) -> bytes:
        """Physical memory; zeros where nobody wrote."""
        return os.pread(self._fd, size, self._at(start, size)).ljust(size, b"\0")

    def write(self, start: int, data: bytes | NDArray[np.generic]) -> None:
        """Change physical memory."""
        plain = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        self.put(self._at(start, len(plain)), plain)

    def put(self, offset: int, data: bytes | NDArray[np.generic]) -> None:
        """Change bytes of the file."""
        view = memoryview(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def finish(self) -> int:
        """Write the headers; returns how many segments there are."""
        if len(self._segments) > _MAX_SEGMENTS:
            raise ValueError(f"{len(self._segments):,} segments do not fit an ELF file")
        notes = self.room(len(self._notes))
        os.pwrite(self._fd, self._notes, notes)
        rows = [(_PT_NOTE, 0, notes, 0, 0, len(self._notes), len(self._notes), 0)]
        rows += [(_PT_LOAD, 0, o, p, p, n, n, 0) for p, n, o in sorted(self._segments)]
        self._elf[5], self._elf[10] = _HEADER.size, len(rows)
        self._elf[6] = self._elf[12] = self._elf[13] = 0  # no sections
        headers = _HEADER.pack(*self._elf) + b"".join(_PROGRAM.pack(*row) for row in rows)
        os.pwrite(self._fd, headers, 0)
        os.ftruncate(self._fd, self._end)
        os.close(self._fd)
        return len(rows) - 1

"""Physical memory of a compressed kdump, read here: for files that libkdumpfile does not open.

QEMU's ``dump-guest-memory -z`` leaves the kernel's name and architecture out of the header, without
which libkdumpfile stops. Pages compressed by zlib or not at all are read.

Sources: makedumpfile 1.7.2 diskdump_mod.h and IMPLEMENTATION; QEMU 7.2 include/sysemu/dump.h.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from crashext.hosts.base import HostError
from crashext.hosts.dumpfile import MAX_NOTES, PAGE_DESC

_ZLIB, _OTHERS = 1, {2: "lzo", 4: "snappy", 0x20: "zstd"}
_CACHED = 4096  # pages: 16 MiB
_CHUNK = 1 << 15  # page frames whose rank is counted at once
_MAX_BLOCK = 1 << 16
_MAX_BITMAP = 1 << 30
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)


class KdumpFile:
    """One file, whose headers `dumpfile.examine` has found sound."""

    def __init__(self, path: Path) -> None:
        """Raises `HostError` where its pages are compressed in a way that is not read here."""
        self._path = path
        self._file = path.open("rb")
        self._length = self._file.seek(0, 2)
        header = self._read(0, 464)
        self.block, sub, blocks, frames = struct.unpack_from("<iiII", header, 428)
        if not 0 < self.block <= _MAX_BLOCK or not 0 < sub < 1 << 16:
            raise HostError(f"{path} is a damaged kdump file: its header makes no sense")
        about = self._read(self.block, 112)
        version = struct.unpack_from("<i", header, 8)[0]
        self.frames = max(frames, struct.unpack_from("<Q", about, 96)[0] if version >= 6 else 0)
        size = blocks * self.block
        half = size // 2 if size * 8 >= self.frames * 2 else size
        if half * 8 < self.frames or half > _MAX_BITMAP:
            raise HostError(f"{path} is a damaged kdump file: its bitmap does not fit its pages")
        bitmap = (1 + sub) * self.block
        written = self._read(bitmap + (size - half), half)
        self._bits = np.frombuffer(written, np.uint8)
        counts = _ONES[self._bits]
        ends = np.cumsum(np.add.reduceat(counts, np.arange(0, len(counts), _CHUNK // 8)))
        self._before = np.concatenate([np.zeros(1, np.int64), ends])
        self._table = bitmap + size
        self._note = struct.unpack_from("<QQ", about, 32) if version >= 3 else (0, 0)
        self.page = lru_cache(_CACHED)(self._page)

    def vmcoreinfo(self) -> str:
        """The text that the header points to; "" where it points to none."""
        at, size = self._note
        if not at or not 0 < size <= MAX_NOTES or at + size > self._length:
            return ""
        return self._read(at, size).split(b"\0")[0].decode("ascii", "replace")

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes at a physical address; None where any of them is not in the file."""
        pieces = []
        while size > 0:
            page = self.page(address // self.block)
            if page is None:
                return None
            at = address % self.block
            pieces.append(page[at : at + size])
            address, size = address + len(pieces[-1]), size - len(pieces[-1])
        return b"".join(pieces)

    def _page(self, frame: int) -> bytes | None:
        if not 0 <= frame < self.frames or not self._bits[frame // 8] >> frame % 8 & 1:
            return None
        begin = frame // _CHUNK * _CHUNK
        before = np.unpackbits(self._bits[begin // 8 : frame // 8 + 1], bitorder="little")
        rank = int(self._before[frame // _CHUNK]) + int(before[: frame - begin].sum())
        row = np.frombuffer(self._read(self._table + PAGE_DESC.itemsize * rank, 24), PAGE_DESC)[0]
        data = self._read(int(row["offset"]), min(int(row["size"]), 2 * self.block))
        flags = int(row["flags"])
        for bit, name in _OTHERS.items():
            if flags & bit:
                raise HostError(
                    f"{self._path} names no architecture, and its pages are compressed with "
                    f"{name}: make it anew with zlib (dump-guest-memory -z)"
                )
        if flags & _ZLIB:
            try:
                data = zlib.decompress(data, bufsize=self.block)
            except zlib.error:
                return None
        return data if len(data) == self.block else None

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size).ljust(size, b"\0")

"""Physical memory of a compressed kdump, read here: for files that libkdumpfile does not open.

QEMU's ``dump-guest-memory -z`` (``-l``, ``-s``) leaves the kernel's name and architecture out of
the header, without which libkdumpfile stops, and counts arm64's memory in pieces of 64 KiB; of a
truncated file libkdumpfile maps what is past its end.

Sources: makedumpfile 1.7.2 diskdump_mod.h and IMPLEMENTATION; QEMU 7.2 include/sysemu/dump.h.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import HostError
from crashext.hosts.decompress import FORMS, LIBRARIES, unpack_all, unpacker
from crashext.hosts.dumpfile import MAX_NOTES, PAGE_DESC
from crashext.hosts.flattened import open_dump

_FORMS = sum(FORMS)
_CACHED = 4096  # pages: 16 MiB
_FEW = 4  # pages, which may be asked for again soon
_CHUNK = 1 << 15  # page frames whose rank is counted at once
_MAX_BLOCK = 1 << 16
_MAX_BITMAP = 1 << 30
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)


class KdumpFile:
    """One file, whose headers `dumpfile.examine` has found sound."""

    def __init__(self, path: Path) -> None:
        """Raises `HostError` where what unpacks its pages is not on this machine."""
        self._path = path
        self._file = open_dump(path)
        self._length = self._file.seek(0, 2)
        header = self._read(0, 464)
        self.block, sub, blocks, frames = struct.unpack_from("<iiII", header, 428)
        if not 0 < self.block <= _MAX_BLOCK or not 0 < sub < 1 << 16:
            raise HostError(f"{path} is a damaged kdump file: its header makes no sense")
        self._require(struct.unpack_from("<I", header, 424)[0])
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
        self._packed, self._unpacked_pages = np.empty((2, 0), np.uint8)
        self.page = lru_cache(_CACHED)(self._page)

    def vmcoreinfo(self) -> str:
        """The text that the header points to; "" where it points to none."""
        at, size = self._note
        if not at or not 0 < size <= MAX_NOTES or at + size > self._length:
            return ""
        return self._read(at, size).split(b"\0")[0].decode("ascii", "replace")

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes at a physical address; None where any of them is not in the file."""
        data = self.view(address, size)
        return None if data is None else bytes(data)

    def view(self, address: int, size: int) -> memoryview | bytes | None:
        """The same, where nothing need be copied; until the next call."""
        first, end = address // self.block, -(-(address + size) // self.block)
        at = address - first * self.block
        if end - first > _FEW and (data := self._at_once(first, end)) is not None:
            return data.data[at : at + size]
        whole = self._run(first, end) if end - first > _FEW else map(self.page, range(first, end))
        pages = list(whole)
        if None in pages:
            return None
        return b"".join(page for page in pages if page)[at : at + size]

    def _require(self, status: int) -> None:
        """What unpacks its pages; the header's status has the bits that pages' flags have."""
        for bit, form in FORMS.items():
            if status & bit and unpacker(form) is None:
                raise HostError(
                    f"{self._path} is compressed with {form}, and {LIBRARIES[form]} is not on this "
                    "machine: install it, or make the dump anew with zlib (makedumpfile -c, "
                    "dump-guest-memory -z)"
                )

    def _page(self, frame: int) -> bytes | None:
        return self._run(frame, frame + 1)[0]

    def _at_once(self, first: int, end: int) -> NDArray[np.uint8] | None:
        """Page frames [first, end); None where that does not go, or any of them is not there."""
        rows = self._rows(first, end)
        if rows is None:
            return None
        forms = np.bitwise_or.reduce(rows["flags"]) & _FORMS
        if rows["offset"].max() > self._length:  # nor may a sum of it be out of range
            return None
        offsets, sizes = rows["offset"].astype(np.int64), rows["size"].astype(np.int64)
        start, stop = int(offsets.min()), int((offsets + sizes).max())
        if sizes.min() <= 0 or stop > self._length or stop - start > 2 * self.block * len(rows):
            return None
        packed = rows["flags"] & _FORMS != 0
        # A thread's new arrays are new pages from the kernel each time: these are its own.
        self._packed = _room(self._packed, stop - start)
        self._unpacked_pages = _room(self._unpacked_pages, len(rows) * self.block)
        data, result = self._packed[: stop - start], self._unpacked_pages[: len(rows) * self.block]
        self._file.seek(start)
        if self._file.readinto(data.data) != len(data):  # type: ignore[attr-defined]
            return None
        done = unpack_all(int(forms), data, offsets - start, sizes, packed, self.block, result)
        return result if done else None

    def _rows(self, first: int, end: int) -> NDArray[Any] | None:
        """What the file says of page frames [first, end); None where any of them is not in it."""
        if not 0 <= first < end <= self.frames:
            return None
        bits = np.unpackbits(self._bits[first // 8 : -(-end // 8)], bitorder="little")
        if not bits[first % 8 :][: end - first].all():
            return None
        begin = first // _CHUNK * _CHUNK
        before = _ONES[self._bits[begin // 8 : first // 8]].sum() + bits[: first % 8].sum()
        rank = int(self._before[first // _CHUNK] + before)
        row = PAGE_DESC.itemsize
        return np.frombuffer(self._read(self._table + row * rank, row * (end - first)), PAGE_DESC)

    def _run(self, first: int, end: int) -> list[bytes | None]:
        """Page frames [first, end), as far as the first that is not in the file."""
        rows = self._rows(first, end)
        if rows is None:
            return [None]
        offsets, sizes = rows["offset"].tolist(), np.minimum(rows["size"], 2 * self.block).tolist()
        # Pages of one memory range follow each other in the file; those of zeros are one.
        start, stop = min(offsets), max(map(int.__add__, offsets, sizes))
        together = stop - start <= 2 * self.block * len(rows)
        data = self._read(start, stop - start) if together else b""
        found: list[bytes | None] = []
        for offset, size, flags in zip(offsets, sizes, rows["flags"].tolist(), strict=True):
            at = offset - start
            packed = data[at : at + size] if together else self._read(offset, size)
            cut = not size or offset + size > self._length
            found.append(None if cut else self._unpacked(packed, flags))
            if found[-1] is None:
                break
        return found

    def _unpacked(self, packed: bytes, flags: int) -> bytes | None:
        if flags & _FORMS:
            form = next(form for bit, form in FORMS.items() if flags & bit)
            unpack = unpacker(form)
            page = None if unpack is None else unpack(packed, self.block)
        else:
            page = packed
        return page if page is not None and len(page) == self.block else None

    def _read(self, at: int, size: int) -> bytes:
        if not 0 <= at < self._length:
            return bytes(size)
        self._file.seek(at)
        return self._file.read(size).ljust(size, b"\0")


def _room(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The array, or a longer one."""
    return array if size <= len(array) else np.empty(size, np.uint8)

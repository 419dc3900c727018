"""A dump file, and one in makedumpfile's flattened format, which is what goes through a pipe.

It is a list of writes: (offset, size, data), in the order in which they were made. Whatever reads
such a file here sees the file that they would have written.

Source: makedumpfile 1.7.2 makedumpfile.h (makedumpfile_header, makedumpfile_data_header).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from crashext.hosts.signature import FLATTENED

_FIRST = 4096  # MAX_SIZE_MDF_HEADER: where the first write is
_WRITE = struct.Struct(">qq")
_MOST = 1 << 62


def open_dump(path: Path) -> BinaryIO:
    """The file, or what a flattened one stands for. Raises `OSError`."""
    file = path.open("rb")
    if file.read(len(FLATTENED)) == FLATTENED:
        return cast(BinaryIO, io.BufferedReader(_Written(file), 1 << 16))
    file.seek(0)
    return file


def is_flattened(file: BinaryIO) -> bool:
    """Of a file from `open_dump`."""
    return isinstance(getattr(file, "raw", None), _Written)


class _Written(io.RawIOBase):
    """What was written, up to where the flattened file ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        end = file.seek(0, 2)
        # With a buffer of its own for the many short headers.
        starts, sizes, places = [], [], []
        place = _FIRST
        while place + _WRITE.size <= end:
            file.seek(place)
            start, size = _WRITE.unpack(file.read(_WRITE.size))
            place += _WRITE.size
            if not (0 <= start < _MOST and 0 < size < _MOST):
                break  # both are -1 behind the last
            starts.append(start)
            sizes.append(min(size, end - place))
            places.append(place)
            place += size
        self._places = np.array(places, np.int64)
        self._starts = np.array(starts, np.int64)
        self._ends = self._starts + np.array(sizes, np.int64)
        self._length = int(self._ends.max(initial=0))
        # Most writes follow each other: those are found by halving. The rest come after them.
        before = np.maximum.accumulate(np.append(0, self._ends))[:-1]
        self._onward = np.flatnonzero(self._starts >= before)
        self._back = np.flatnonzero(self._starts < before)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Later writes over earlier ones, zeros where nobody wrote."""
        begin, end = self._at, min(self._at + len(buffer), self._length)
        if begin >= end:
            return 0
        buffer[: end - begin] = bytes(end - begin)
        for write in self._touched(begin, end):
            start = max(begin, int(self._starts[write]))
            stop = min(end, int(self._ends[write]))
            self._file.seek(int(self._places[write]) + start - int(self._starts[write]))
            data = self._file.read(stop - start)
            buffer[start - begin : start - begin + len(data)] = data
        self._at = end
        return end - begin

    def _touched(self, begin: int, end: int) -> list[int]:
        """Writes to any of [begin, end), in their order."""
        onward = self._onward
        first = int(np.searchsorted(self._ends[onward], begin, "right"))
        last = int(np.searchsorted(self._starts[onward], end, "left"))
        back = self._back
        some = back[(self._starts[back] < end) & (self._ends[back] > begin)]
        return sorted([*onward[first:last].tolist(), *some.tolist()])

"""Readers of a dump file's physical memory that can work side by side, one a thread.

drgn's program serves one thread at a time, and holds the interpreter while it decompresses. An ELF
core is read here with preadv(2); a compressed kdump, or what is flattened, by libkdumpfile, which
drgn has loaded already, through a context of its own for each reader; a kdump that libkdumpfile
does not read, or must not, by `KdumpFile`. All let other threads run meanwhile.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from crashext.hosts.base import HostError
from crashext.hosts.dumpfile import DumpFile
from crashext.hosts.elfheaders import PT_LOAD, read_headers
from crashext.hosts.kdumpfile import KdumpFile

if TYPE_CHECKING:
    import ctypes

_PHYSICAL = 0  # KDUMP_KPHYSADDR of kdump_addrspace_t, libkdumpfile 0.4 to 0.5
_NO_PHYSICAL_ADDRESS = (1 << 64) - 1


class Reader(Protocol):
    """Reads for one thread."""

    def read(self, address: int, size: int) -> memoryview | None:
        """Bytes at a virtual address of the direct map, until the next call; None where any of
        them cannot be had this way: ask the host."""
        ...


@runtime_checkable
class ManyReaders(Protocol):
    """A host whose memory more than one thread can read."""

    jobs: int
    """How many threads may read at a time."""

    def readers(self, count: int) -> list[Reader]:
        """So many of them; none where this dump has none."""
        ...


class _Buffered(ABC):
    """A reader with a buffer that grows as needed; `fill` is what a file format knows."""

    def __init__(self, physical: Callable[[int], int | None]) -> None:
        self._physical = physical
        self._buffer = np.empty(0, np.uint8)

    def read(self, address: int, size: int) -> memoryview | None:
        where = self._physical(address)
        if where is None:
            return None
        if size > len(self._buffer):
            self._buffer = np.empty(size, np.uint8)
        data = self._buffer[:size]
        return data.data if self.fill(where, data) else None

    @abstractmethod
    def fill(self, where: int, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bool:
        """Put what stands at a physical address into `data`; False where it is not all there."""


class _Elf(_Buffered):
    def __init__(self, path: Path, physical: Callable[[int], int | None]) -> None:
        super().__init__(physical)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        found = []
        with path.open("rb") as file:
            for segment in read_headers(file).segments:
                start, size = segment.physical, segment.size
                if segment.type == PT_LOAD and size and start != _NO_PHYSICAL_ADDRESS:
                    found.append((start, start + size, segment.offset - start))
        found.sort()
        if any(a[1] > b[0] for a, b in pairwise(found)):
            raise ValueError("segments overlap: which of them is meant is for drgn to know")
        self._segments, self._starts = found, [start for start, _, _ in found]

    def fill(self, where: int, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bool:
        i = bisect_right(self._starts, where) - 1
        if i < 0 or where + len(data) > self._segments[i][1]:
            return False
        return os.preadv(self._fd, [data.data], where + self._segments[i][2]) == len(data)


class _Kdump(_Buffered):
    def __init__(self, path: Path, physical: Callable[[int], int | None]) -> None:
        super().__init__(physical)
        import ctypes  # here, as most runs do without

        library = _libkdumpfile()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, fd)
        library.kdump_new.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(library.kdump_new())
        if not self._context:
            raise MemoryError
        weakref.finalize(self, library.kdump_free, self._context)
        if library.kdump_open_fdset(self._context, 1, ctypes.byref(ctypes.c_int(fd))):
            raise ValueError("libkdumpfile does not open it")
        self._read, self._size = library.kdump_read, ctypes.c_size_t
        size = ctypes.POINTER(ctypes.c_size_t)
        self._read.argtypes = [
            *(ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, size)
        ]

    def fill(self, where: int, data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bool:
        size = self._size(len(data))
        failed = self._read(self._context, _PHYSICAL, where, data.ctypes.data, size)
        return not failed and size.value == len(data)


class _Own:
    """By our own reader, a file opened for each."""

    def __init__(self, path: Path, physical: Callable[[int], int | None]) -> None:
        self._physical, self._dump = physical, KdumpFile(path)

    def read(self, address: int, size: int) -> memoryview | None:
        where = self._physical(address)
        data = None if where is None else self._dump.view(where, size)
        return None if data is None else memoryview(data)


def _libkdumpfile() -> ctypes.CDLL:
    """The one that drgn has loaded: its wheel brings its own, under a name of its own."""
    import ctypes

    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.partition("/")[2]
        if "libkdumpfile" in path:
            return ctypes.CDLL(f"/{path}")
    raise OSError("libkdumpfile is not loaded")


def open_readers(
    path: Path, file: DumpFile, physical: Callable[[int], int | None], count: int
) -> list[Reader]:
    """So many readers of a dump; none where its format is read by drgn alone.

    `physical` gives the physical address behind one of the direct map, None for others.
    """
    if not file.present:
        return []
    first = np.empty(1, np.uint8)
    for kind in _kinds(file):
        try:
            found = [kind(path, physical) for _ in range(count)]
            # libkdumpfile opens what it does not read, too.
            if isinstance(found[0], _Own) or found[0].fill(file.present[0][0], first):
                return [*found]
        except (OSError, ValueError, AttributeError, MemoryError, HostError):
            continue  # an older libkdumpfile, or none; what else is wrong drgn says in its words
    return []


def _kinds(file: DumpFile) -> list[type[_Elf] | type[_Kdump] | type[_Own]]:
    if file.format == "ELF":
        return [_Kdump] if file.flattened else [_Elf]
    if not file.format.startswith("kdump"):
        return []
    return [_Own] if file.unsafe else [_Kdump, _Own]

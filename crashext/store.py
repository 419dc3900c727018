"""Where arrays are that may be larger than memory should be: in memory, or in files without names.

Such a file is in TMPDIR, else in /var/tmp, and gone when the process is: it has no name from the
start. What is in it is seen through a mapping, of which the kernel counts as ours what was touched;
`release` gives that back whenever it is much, and the data stay where they are.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crashext.growing import Growing

_VISIBLE = 16 << 20
"""Bytes of mappings that may be resident before they are given back."""
_SPARE = 1 << 30
"""Bytes that are left free on the file system."""
_IN_MEMORY = ("tmpfs", "ramfs")
_COPIES = ("bcachefs", "btrfs", "zfs")
"""What is written anew there needs room anew, and where there is none the process ends (SIGBUS)."""
_SOME = 1 << 18


class Column(Protocol):
    """An array of which more and more is known, as `Growing` is."""

    def __len__(self) -> int: ...

    def add(self, values: NDArray[Any]) -> None: ...

    def array(self) -> NDArray[Any]: ...


class Store:
    """In memory."""

    on_disk = False

    def growing(self, kind: type[Any]) -> Column:
        """An empty one."""
        return Growing(kind)

    def filled(self, count: int, kind: type[Any], value: Any) -> NDArray[Any]:
        """The same value everywhere; it can be changed."""
        return np.full(count, value, kind)

    def release(self) -> None:
        """Now and then: what was seen need not stay in memory."""


class NoRoom(Exception):
    """A file cannot grow."""


class FileStore(Store):
    """In files. Raises `NoRoom` where there is none."""

    on_disk = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._base = _shared()

    def growing(self, kind: type[Any]) -> Column:
        return _InFile(self, kind)

    def filled(self, count: int, kind: type[Any], value: Any) -> NDArray[Any]:
        column = _InFile(self, kind)
        for at in range(0, count, _SOME):
            column.add(np.full(min(_SOME, count - at), value, kind))
        return column.array(writable=True)

    def release(self) -> None:
        if not self._maps:
            return
        # Libraries and dumps that are mapped count, too: what remains of them is no reason to give
        # back again and again, and where they shrink ours has no more room than before.
        visible = _shared()
        self._base = min(self._base, visible)
        if visible - self._base > _VISIBLE:
            for each in self._maps:
                each.madvise(mmap.MADV_DONTNEED)
            self._base = _shared()

    def file(self) -> int:
        """A new one."""
        try:
            number, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
        except OSError as error:
            raise NoRoom(str(error)) from error
        return number

    def mapped(self, number: int, length: int, writable: bool) -> mmap.mmap:
        """The first bytes of a file."""
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            found = mmap.mmap(number, length, mmap.MAP_SHARED, access)
        except OSError as error:  # 9p and some of FUSE map nothing that is shared
            raise NoRoom(str(error)) from error
        self._maps.add(found)
        return found


class _InFile:
    """A column in a file: written to its end, then seen as a whole."""

    def __init__(self, store: FileStore, kind: type[Any]) -> None:
        self._store, self._kind, self._used = store, np.dtype(kind), 0
        self._file: int | None = None

    def __len__(self) -> int:
        return self._used

    def add(self, values: NDArray[Any]) -> None:
        if not len(values):
            return
        if self._file is None:
            self._file = self._store.file()
        rest = np.ascontiguousarray(values, self._kind).view(np.uint8).data
        while len(rest):
            try:
                rest = rest[os.write(self._file, rest) :]
            except OSError as error:
                raise NoRoom(str(error)) from error
        self._used += len(values)

    def array(self, writable: bool = False) -> NDArray[Any]:
        if self._file is None:
            return np.zeros(0, self._kind)
        length = self._used * self._kind.itemsize
        return np.frombuffer(self._store.mapped(self._file, length, writable), self._kind)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def _shared() -> int:
    """Bytes of files that are resident in this process."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def folder() -> Path:
    """Where files for a moment go that may be large."""
    own = os.environ.get("TMPDIR")
    return Path(own or "/var/tmp")


def free(where: Path) -> int:
    """Bytes that may be written there; none where that would be memory."""
    try:
        if _kind(where) in (*_IN_MEMORY, *_COPIES) or not os.access(where, os.W_OK):
            return 0
        found = os.statvfs(where)
    except OSError:
        return 0
    return max(0, found.f_bavail * found.f_frsize - _SPARE)


def _kind(where: Path) -> str:
    """The file system's name."""
    real, best, kind = str(where.resolve()), "", ""
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        point, name = line.split(" ")[1:3]
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind

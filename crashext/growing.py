"""Arrays that grow piece by piece: they are never copied, and never there twice.

Pieces in a list that are joined at the end take twice as much for a moment, and libc keeps what
the pieces had; pages of a mapping are taken when they are first written, and moved by the kernel.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

_FIRST = 1 << 20  # bytes


class Growing(Generic[T]):
    """An array of which more and more is known."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = np.dtype(kind)
        self._map: mmap.mmap | None = None
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, values: NDArray[Any]) -> None:
        """Some values more. What `array` gave before must be gone."""
        size, end = self._kind.itemsize, self._used + len(values)
        if not len(values):
            return
        if self._map is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._map = mmap.mmap(-1, max(_FIRST, 2 * end * size), flags=flags)
        elif end * size > len(self._map):
            self._map.resize(2 * end * size)
        self.array(end)[self._used :] = values
        self._used = end

    def array(self, length: int | None = None) -> NDArray[T]:
        """All of it so far: it is no copy."""
        if self._map is None:
            return np.zeros(0, self._kind)
        count = self._used if length is None else length
        return np.frombuffer(self._map, self._kind, count)


def give_back() -> None:
    """To the kernel, what Python freed: libc keeps it."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)

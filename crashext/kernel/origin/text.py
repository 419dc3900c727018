"""The text of the kernel and of its modules, as the dump has it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, Mask
from crashext.kernel.access import Words

MOST_TEXT = 512 << 20
"""Of a kernel with all its modules; more is nonsense."""
_PAGE = 4096  # the smallest there are: what may be missing by itself


@dataclass(frozen=True)
class Text:
    """Pieces of text, whole ones alone: inside crash a function is cheaper had from here than
    asked for."""

    pieces: tuple[tuple[int, NDArray[np.uint8]], ...] = ()
    """(where it begins, bytes), by address."""

    def holds(self, addresses: Words) -> Mask:
        """Which of these addresses are in it."""
        if not self.pieces:
            return np.zeros(len(addresses), np.bool_)
        starts = np.array([start for start, _ in self.pieces], np.uint64)
        ends = np.array([start + len(data) for start, data in self.pieces], np.uint64)
        at = np.searchsorted(starts, addresses, side="right").astype(np.int64) - 1
        return np.asarray((at >= 0) & (addresses < ends[np.maximum(at, 0)]), np.bool_)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes, where one piece has them all."""
        at = bisect_right(self.pieces, address, key=lambda piece: piece[0]) - 1
        if at < 0:
            return None
        start, data = self.pieces[at]
        first = address - start
        return data[first : first + size].tobytes() if first + size <= len(data) else None


def text_areas(host: Host) -> list[tuple[int, int]]:
    """(start, end) of the kernel's text and of the modules."""
    areas = [(a, b) for module in host.modules() for a, b in module.ranges]
    first = host.address_of("_text") or host.address_of("_stext")
    last = host.address_of("_etext")
    if first is not None and last is not None:
        areas.append((first, last))
    return sorted((a, b) for a, b in areas if 0 < b - a <= MOST_TEXT)


def read_text(host: Host, start: int, size: int) -> tuple[NDArray[np.uint8], int]:
    """The bytes, zeros where the dump has none, and how many those are."""
    first = start - start % _PAGE
    pages = np.arange(first, start + size, _PAGE, dtype=np.uint64)
    data, ok = host.read_many(pages, _PAGE)
    flat = data.reshape(-1)[start - first : start - first + size]
    return np.ascontiguousarray(flat), int((~ok).sum()) * _PAGE

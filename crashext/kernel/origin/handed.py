"""Which functions are called by those that name a symbol: who is handed a callback or a table.

cdev_add() names exact_match() and calls kobj_map(), which allocates and keeps it. The function that
allocates names nothing then; in all text its callers do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host
from crashext.kernel.access import Words
from crashext.kernel.origin.callsites import all_calls
from crashext.kernel.origin.text import Text
from crashext.kernel.origin.thunks import meant

_MOST = 8
"""Functions that name a symbol; where more do, it is handed to anybody."""
_MOST_PLACES = 1 << 12
"""In all text; where bytes say a symbol more often they are no code."""
_PIECE = 1 << 20
_ADRP, _ADRP_MASK = np.uint32(0x90000000), np.uint32(0x9F000000)
_ADD, _ADD_MASK = np.uint32(0x91000000), np.uint32(0xFFC00000)
_APART = 6


class Handed:
    """In the text of one kernel."""

    def __init__(self, host: Host, text: Text) -> None:
        self._host, self._text = host, text
        self._arm64 = host.info().arch == ARM64
        self._known: dict[int, frozenset[int]] = {}

    def of(self, address: int) -> frozenset[int]:
        """Functions that are called directly by the few that name `address`."""
        if address not in self._known:
            self._known[address] = self._find(address)
        return self._known[address]

    def _find(self, address: int) -> frozenset[int]:
        find = _named_by_arm64 if self._arm64 else _named_by_x86
        naming: dict[int, int] = {}
        places = 0
        for start, data in self._text.pieces:
            for place in find(data, start, address):
                function = self._host.symbol_at(place)
                if function is not None and function.size:
                    naming[function.address] = function.size
                places += 1
                if len(naming) > _MOST or places > _MOST_PLACES:
                    return frozenset()
        found = set[int]()
        for function_at, size in naming.items():
            code = np.frombuffer(self._text.read(function_at, size) or b"", np.uint8)
            _, targets = all_calls(code, function_at, self._arm64)
            found |= {meant(self._host, int(t)) for t in targets[self._text.holds(targets)]}
        return frozenset(found - set(naming))


def _named_by_x86(data: NDArray[np.uint8], start: int, address: int) -> Iterator[int]:
    """Where four bytes are the address, or lead there from their own end: mov and lea, with which
    code hands it on. What only looks so is once in a billion."""
    for first in range(0, len(data), _PIECE):
        for shift in range(first, first + 4):
            room = min(_PIECE, len(data) - shift) // 4
            if room <= 0:
                continue
            numbers = np.frombuffer(data, "<i4", room, shift)
            ends = np.arange(room, dtype=np.int32) * np.int32(4)
            led = _low(address - start - shift - 4)
            hit = (numbers == _low(address)) | (numbers + ends == led)
            for at in np.flatnonzero(hit).tolist():
                yield start + shift + 4 * at


def _low(number: int) -> np.int32:
    low = number & 0xFFFFFFFF
    return np.int32(low - (low >> 31 << 32))


def _named_by_arm64(data: NDArray[np.uint8], start: int, address: int) -> Iterator[int]:
    """Where adrp and add make the address."""
    words = data[: len(data) & ~3].view("<u4")
    at = np.flatnonzero((words & _ADRP_MASK) == _ADRP)
    page = words[at]
    high = (page << np.uint32(8)).view(np.int32).astype(np.int64) >> 13 << 2
    pages = high | (page >> np.uint32(29) & np.uint32(3)).astype(np.int64)
    here: Words = at.astype(np.uint64) * np.uint64(4) + np.uint64(start)
    base = (here & ~np.uint64(0xFFF)) + (pages << 12).astype(np.uint64)
    low = _ADD | np.uint32((address & 0xFFF) << 10)
    for place in at[base == np.uint64(address & ~0xFFF)].tolist():
        after = words[place + 1 : place + _APART]
        mine = (after & (_ADD_MASK | np.uint32(0xFFF << 10))) == low
        mine &= (after >> np.uint32(5) & np.uint32(31)) == (words[place] & np.uint32(31))
        if mine.any():
            yield start + 4 * place

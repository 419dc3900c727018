"""Many symbols at hand, to be found by address.

drgn looks through a whole ELF symbol table at each question (2 ms for a kernel); whoever names
thousands of places, as call sites are, needs this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate


class SymbolTable:
    """Symbols of one kernel image, by the range that they cover."""

    def __init__(self, symbols: Iterable[tuple[int, int, str]]) -> None:
        """Of (address, size, name); what has no size covers nothing."""
        self._symbols = sorted(s for s in symbols if s[1])
        self._starts = [address for address, _, _ in self._symbols]
        # How far all symbols up to here reach: an outer one may begin long before an inner one.
        self._reach = list(accumulate((a + size for a, size, _ in self._symbols), max))

    def at(self, address: int) -> tuple[int, int, str] | None:
        """The symbol whose range holds `address`.

        Aliases share an address: the widest is the object itself, the name breaks the tie.
        """
        i = bisect_right(self._starts, address) - 1
        found = []
        while i >= 0 and self._reach[i] > address:
            start, size, _ = self._symbols[i]
            if address < start + size:
                found.append(self._symbols[i])
            i -= 1
        return min(found, key=lambda s: (-s[1], s[2]), default=None)

"""Which functions name a symbol in their text, whatever they do with it.

x86-64's code names an address by 32 bits, relative to the next instruction or sign-extended;
arm64's by adrp and what is added to it a few instructions on, or by what is added to another
variable's address: compilers keep one of a file's variables in a register for all of them (gcc's
section anchors). Where an operand of x86-64 begins is not asked: four bytes that only look like one
name a given symbol once in a billion times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.kernel.access import Words

_IMMEDIATE = (0, 1, 4)
"""Bytes that may follow the part of an instruction that its end is relative to."""
_ADRP, _ADRP_MASK = np.uint32(0x90000000), np.uint32(0x9F000000)
_ADD, _ADD_MASK = np.uint32(0x91000000), np.uint32(0xFFC00000)
_LOW, _REGISTER = np.uint32(0xFFF), np.uint32(0x1F)
_KEPT = range(19, 29)
"""Registers that calls leave alone: what is in them lasts until it is written over."""
_LOADS, _LOADS_MASK = np.uint32(0x28400000), np.uint32(0x2E400000)
_SP = 31
_APART = 6
"""Instructions from an adrp to the add that goes with it, less one, at most."""
_PIECE = 1 << 19
"""Bytes of text that are looked through in one go: each takes some hundred here."""


class Mentions:
    """Of functions, whose text is given by address."""

    def __init__(
        self, texts: Mapping[int, bytes], areas: list[tuple[int, int]], arm64: bool
    ) -> None:
        """`areas` are the addresses that may be asked about."""
        self._functions = np.array(sorted(texts), np.uint64)
        parts = [texts[int(a)] for a in self._functions]
        # An instruction is aligned in arm64's text; in x86-64's nothing is.
        parts = [p.ljust(len(p) + 3 & ~3, b"\0") for p in parts]
        self._starts = np.cumsum([0, *map(len, parts)])[:-1]
        self._areas = np.array(sorted(areas), np.uint64).reshape(-1, 2)
        find = self._arm64 if arm64 else self._x86
        values, owners = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        if any(parts) and areas:
            values, owners = find(b"".join(parts))
        # Few are asked about: to look through all for each costs less than to sort them.
        self._values, self._owners = values, owners

    def __len__(self) -> int:
        """Functions."""
        return len(self._functions)

    def among(self, functions: Iterable[int]) -> set[int]:
        """Those of the functions that are looked at."""
        return set(self._functions.tolist()).intersection(functions)

    def of(self, address: int) -> set[int]:
        """The functions whose text names `address`."""
        owners = self._owners[self._values == np.uint64(address)]
        return set(self._functions[distinct(owners)].tolist())

    def _inside(self, values: Words, owners: NDArray[np.int64]) -> tuple[Words, NDArray[np.int64]]:
        """Those that may be asked about: of what is no address at all most are far from any."""
        near = self._near(values)
        values = values[near]
        at = np.searchsorted(self._areas[:, 0], values, side="right") - 1
        inside = values < self._areas[at, 1]
        return values[inside], owners[near[inside]]

    def _near(self, values: Words, before: int = 0) -> NDArray[np.intp]:
        """Those between the first and the last address that may be asked about, or so much before;
        one comparison, as what is below the first is far above the last."""
        first = self._areas[0, 0] - np.uint64(before)
        return np.flatnonzero(values - first < self._areas[:, 1].max() - first)

    def _at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Words]:
        """Of places in the joined text: which function they are in, and their address."""
        owners = np.searchsorted(self._starts, places, side="right").astype(np.int64) - 1
        inside = (places - self._starts[owners]).astype(np.uint64)
        return owners, self._functions[owners] + inside

    def _x86(self, text: bytes) -> tuple[Words, NDArray[np.int64]]:
        values, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for first in (at + shift for at in range(0, len(text), _PIECE) for shift in range(4)):
            room = min(_PIECE, len(text) - first) // 4
            numbers = np.frombuffer(text, "<i4", max(0, room), first)
            numbers = numbers.astype(np.int64).astype(np.uint64)
            places = np.arange(len(numbers), dtype=np.int64) * 4 + first
            owner, here = self._at(places)
            ends = here + np.uint64(4) + numbers
            near = self._near(ends, max(_IMMEDIATE))  # a hundredth of them
            ends, behind = ends[near], owner[near]
            relative = ((ends + np.uint64(n), behind) for n in _IMMEDIATE)
            for found, whose in ((numbers, owner), *relative):
                some = self._inside(found, whose)
                values.append(some[0])
                owners.append(some[1])
        return np.concatenate(values), np.concatenate(owners)

    def _arm64(self, text: bytes) -> tuple[Words, NDArray[np.int64]]:
        words = np.frombuffer(text, "<u4")
        at = np.flatnonzero((words & _ADRP_MASK) == _ADRP)
        owner, here = self._at(at * 4)
        page = words[at]
        high = (page << np.uint32(8)).view(np.int32).astype(np.int64) >> 13 << 2
        pages = high | (page >> np.uint32(29) & np.uint32(3)).astype(np.int64)
        base = (here & ~np.uint64(0xFFF)) + (pages << 12).astype(np.uint64)
        values, owners, anchors = [base], [owner], []
        for apart in range(1, _APART):
            near = at + apart < len(words)
            low = words[at[near] + apart]
            goes = (low & _ADD_MASK) == _ADD
            goes &= (low >> np.uint32(5) & _REGISTER) == (page[near] & _REGISTER)
            named = base[near][goes] + _added(low[goes])
            values.append(named)
            owners.append(owner[near][goes])
            anchors.append((at[near][goes] + apart, named))
        for place, named in self._from_anchors(words, anchors):
            values.append(named)
            owners.append(self._at(place * 4)[0])
        return self._inside(np.concatenate(values), np.concatenate(owners))

    def _from_anchors(
        self, words: NDArray[np.uint32], anchors: list[tuple[NDArray[np.int64], Words]]
    ) -> Iterator[tuple[NDArray[np.int64], Words]]:
        """What is added to an address that is in a register: where, and what it makes."""
        place = np.concatenate([p for p, _ in anchors])
        named = np.concatenate([v for _, v in anchors])
        order = np.argsort(place, kind="stable")
        place, named = place[order], named[order]
        into = words & _REGISTER
        # What a function gives back to its caller's registers before a return is not on the way.
        from_stack = (words & _LOADS_MASK) == _LOADS
        from_stack &= (words >> np.uint32(5) & _REGISTER) == _SP
        adds = np.flatnonzero((words & _ADD_MASK) == _ADD)
        source = words[adds] >> np.uint32(5) & _REGISTER
        starts = self._starts // 4
        for register in _KEPT:
            writes = np.flatnonzero((into == register) & ~from_stack)
            mine = adds[source == register]
            last = np.searchsorted(writes, mine) - 1
            mine, last = mine[last >= 0], writes[last[last >= 0]]
            anchor = np.searchsorted(place, last)
            found = anchor < len(place)
            found[found] = place[anchor[found]] == last[found]
            # Of one function.
            found &= np.searchsorted(starts, mine, "right") == np.searchsorted(
                starts, last, "right"
            )
            yield mine[found], named[anchor[found]] + _added(words[mine[found]])


def _added(instructions: NDArray[np.uint32]) -> Words:
    """The number that an add has in itself."""
    return (instructions >> np.uint32(10) & _LOW).astype(np.uint64)

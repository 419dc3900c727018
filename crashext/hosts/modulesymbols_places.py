"""Whether a module's symbols are where its code and data are: each rule is one that damage breaks
and no module does that the kernel loaded.

Symbols lie in the module's areas, section by section, and over one another only where they are two
names of one thing. On x86 the bytes between functions are padding, and variables are where the
module's own words lead to: what is a bit away from such a place, and covers nothing where it is,
was moved from there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.kallsyms_named import named_in

Rows = NDArray[np.int64]

_SHARED = (b"__BTF_ID__", b"__mod_")
"""Of .BTF_ids, where the last of a list is said to be as long as all of it, and second names of
tables of devices."""
_TAG = re.compile(rb"(?:.*\.)?_alloc_tag(?:\.\d+)*", re.DOTALL)
"""Of allocations, a static variable of each: the kernel keeps all modules' in memory of its own
(0db6f8d7820a, 6.13), as they may outlive them."""
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_MOST_TRIED = 1 << 24
"""Places that symbols are tried in: beyond, it is not padding as is known here that is between
functions, and nothing is told by it."""
_WORD = 8
# What GNU as and the kernel put between functions: nothing, traps, and instructions that do none.
_PADDING = re.compile(
    rb"(?:[\0\x90\xcc]|\x66+\x90|\x0f\x1f(?:\0|\x40\0|\x44\0{2}|\x80\0{4}|\x84\0{5})"
    rb"|\x66\x0f\x1f\x44\0{2}|\x66*\x2e?\x0f\x1f\x84\0{5})*+"
)
_JUMP = 5
# Returns, traps, jumps and calls of what does not return, as the last of a function.
_LAST = re.compile(
    rb"(?:[\xc3\xcb\xcf\xcc\xf4]|\x0f[\x0b\xb9\xff]|\xc2..|\xff.|\xeb.|[\x70-\x7f].|[\xe8\xe9]....|\x0f\x05"
    rb"|\x0f[\x80-\x8f]....)\Z",
    re.DOTALL,
)


@dataclass(frozen=True)
class Piece:
    """Memory of the module from an address on."""

    start: int
    data: bytes

    def part(self, start: int, end: int) -> bytes | None:
        """None where it is not all there."""
        at = start - self.start
        inside = at >= 0 and end - self.start <= len(self.data)
        return self.data[at : at + end - start] if inside else None


class Places:
    """Where the symbols of one module are said to be."""

    def __init__(
        self,
        entries: NDArray[np.void],
        names: Sequence[bytes],
        code: NDArray[np.bool_],
        pieces: Sequence[Piece],
    ) -> None:
        """`code` says which are in code; `pieces` are what is read of the module's areas, where
        its instructions can be read, too.
        """
        sized = np.flatnonzero(entries["size"] > 0)
        apart = [
            names[row].startswith(_SHARED) or _TAG.fullmatch(names[row]) is not None
            for row in sized.tolist()
        ]
        rows = sized[~np.array(apart, np.bool_)]
        rows = rows[np.lexsort((entries["size"][rows], entries["value"][rows]))]
        self.rows: Rows = rows
        self._starts, self._sizes = entries["value"][rows], entries["size"][rows]
        self._ends = self._starts + self._sizes
        self._sections = entries["section"][rows]
        self._code = code[rows]
        self._pieces = pieces

    def overlap(self) -> int | None:
        """A row whose symbol begins inside of another's, and is not the same thing."""
        same = (self._starts[1:] == self._starts[:-1]) & (self._ends[1:] == self._ends[:-1])
        reach = np.maximum.accumulate(self._ends)
        wrong = np.flatnonzero((self._starts[1:] < reach[:-1]) & ~same)
        wrapped = np.flatnonzero(self._ends < self._starts)
        if len(wrapped):
            return int(self.rows[wrapped[0]])
        return int(self.rows[wrong[0] + 1]) if len(wrong) else None

    def outside(self, areas: Sequence[tuple[int, int]]) -> int | None:
        """A row whose symbol is in none of the module's areas."""
        inside = np.zeros(len(self.rows), np.bool_)
        for low, high in areas:
            inside |= (self._starts >= np.uint64(low)) & (self._ends <= np.uint64(high))
        wrong = np.flatnonzero(~inside)
        return int(self.rows[wrong[0]]) if len(wrong) else None

    def astray(self) -> int | None:
        """A row whose symbol stands among those of another section."""
        changes = np.flatnonzero(self._sections[1:] != self._sections[:-1]) + 1
        runs = self._sections[np.concatenate(([0], changes))] if len(self.rows) else self._sections
        seen, counts = np.unique(runs, return_counts=True)
        torn = seen[counts > 1]
        if not len(torn):
            return None
        lengths = np.diff(np.concatenate(([0], changes, [len(self.rows)])))
        alone = np.flatnonzero(np.isin(runs, torn))
        first = np.concatenate(([0], changes))[alone[np.argmin(lengths[alone])]]
        return int(self.rows[first])

    def displaced(self, constants: frozenset[int]) -> int | None:
        """A row whose symbol left a hole in code that a flipped bit of its address or its size
        fills again, or took the place of another variable. In sections of `constants` things may
        share one place, and others have no name.
        """
        code = np.unique(self._sections[self._code]).tolist()
        for section in np.unique(self._sections).tolist() if self._pieces else ():
            rows = np.flatnonzero(self._sections == section)
            found = None
            if section in code:
                found = self._of_code(rows)
            elif section not in constants:
                found = self._of_data(rows)
            if found is not None:
                return int(self.rows[found])
        return None

    def _of_code(self, rows: Rows) -> int | None:
        starts, ends = self._starts[rows], self._ends[rows]
        gaps = np.flatnonzero(starts[1:] > ends[:-1])
        left = _MOST_TRIED
        for at in gaps.tolist():
            low, high = int(ends[at]), int(starts[at + 1])
            if self._is_padding(low, high):
                continue
            if self._is_cut(starts, ends, at, high):
                return int(rows[at])
            if left <= 0:
                break
            left -= len(rows) * len(_BITS)
            moved = starts[:, None] ^ _BITS
            fits = (moved >= low) & (moved < high)
            for row, bit in np.argwhere(fits).tolist():
                if self._came_from(starts, ends, row, int(moved[row, bit])):
                    return int(rows[row])
        return None

    def _came_from(
        self, starts: NDArray[np.uint64], ends: NDArray[np.uint64], row: int, to: int
    ) -> bool:
        """Whether nothing is without a name any more where the symbol of a row begins at `to`."""
        here, size = int(starts[row]), int(ends[row] - starts[row])
        others = np.delete(starts, row), np.delete(ends, row)
        if here + size in others[0] and self._is_padding(here, here + size):
            return False  # what is before a function for its callers
        last = max(here, to) + size
        low, high = _gap(*others, to, last)
        if not low <= to <= to + size <= high:
            return False
        if not (self._is_padding(low, to) and self._is_padding(to + size, high)):
            return False
        around = _gap(*others, here, last)
        return around == (low, high) or around[0] >= around[1] or self._is_padding(*around)

    def _is_cut(
        self, starts: NDArray[np.uint64], ends: NDArray[np.uint64], row: int, high: int
    ) -> bool:
        """Whether a function ends where none does, and with one more bit of its size there is
        nothing up to `high` but padding.
        """
        start, end = int(starts[row]), int(ends[row])
        text = self._text(max(start, end - _JUMP), end)
        if text is None or _LAST.search(text):
            return False
        wider = (start + (end - start | 1 << bit) for bit in range((high - start).bit_length()))
        return any(end < e <= high and self._is_padding(e, high) for e in wider)

    def _text(self, start: int, end: int) -> bytes | None:
        return next(
            (p for piece in self._pieces if (p := piece.part(start, end)) is not None), None
        )

    def _is_padding(self, start: int, end: int) -> bool:
        text = self._text(start, end)
        return text is not None and _PADDING.fullmatch(text) is not None

    def _of_data(self, rows: Rows) -> int | None:
        """Two of one size in one place, though a bit away a word leads to room for one of them."""
        starts, ends = self._starts[rows], self._ends[rows]
        same = np.flatnonzero((starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1]))
        for at in same.tolist():
            size = int(ends[at] - starts[at])
            after = np.searchsorted(starts, starts[at] ^ _BITS, side="right")
            for bit in np.flatnonzero((after > 0) & (after < len(rows))).tolist():
                to = int(starts[at] ^ _BITS[bit])
                low, high = int(ends[after[bit] - 1]), int(starts[after[bit]])
                if low <= to and to + size <= high and self._is_named(to):
                    return int(rows[at])
        return None

    def _is_named(self, address: int) -> bool:
        at = int(np.searchsorted(self._named, np.uint64(address)))
        return at < len(self._named) and int(self._named[at]) == address

    @cached_property
    def _named(self) -> NDArray[np.uint64]:
        """Addresses of the module that its words and instructions have, sorted."""
        low = min((piece.start for piece in self._pieces), default=0)
        high = max((piece.start + len(piece.data) for piece in self._pieces), default=0)
        found = []
        for piece in self._pieces:
            text = np.frombuffer(piece.data, np.uint8)
            far = named_in(text, piece.start, low, high).astype(np.uint64)
            found.append(far + np.uint64(low))
            words = np.frombuffer(piece.data[: len(piece.data) // _WORD * _WORD], "<u8")
            found.append(words[(words >= low) & (words < high)])
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def _gap(
    starts: NDArray[np.uint64], ends: NDArray[np.uint64], address: int, last: int
) -> tuple[int, int]:
    """From where the symbol before `address` ends to where the next one begins; `last` where none
    does.
    """
    after = int(np.searchsorted(starts, np.uint64(address), side="right"))
    low = int(ends[after - 1]) if after else address
    return low, int(starts[after]) if after < len(starts) else last

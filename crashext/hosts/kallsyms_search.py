"""Where the kernel keeps its kallsyms, for kernels whose VMCOREINFO does not say (before 6.0).

scripts/kallsyms.c writes the tables one after the other (2.6 to 5.19): offsets and relative_base
(before 4.6 addresses), num_syms, names, markers, token_table, token_index, each aligned to 8 bytes.
A token is what one byte of a packed name stands for. Digits stand for themselves, which gives the
token table away; all else is found and checked from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_DIGITS = b"".join(bytes([digit, 0]) for digit in b"0123456789")
_TOKENS = 256
_GROUP = 256  # symbols a marker
_IMAGE = 96 << 20  # bytes after _stext in which the read-only data of any kernel ends
_PIECE = 1 << 20
_PIECES = _IMAGE // _PIECE
_NAMES = 4  # pieces that the names of most kernels take
_MAX_LAST = _GROUP * 512  # bytes that the names after the last marker can take


@dataclass(frozen=True)
class Tables:
    """Addresses of the tables."""

    names: int
    token_table: int
    token_index: int
    num_syms: int
    offsets: int
    relative_base: int


class _Image:
    """The kernel image from _stext on: what is asked for is read once."""

    def __init__(self, read: Callable[[int, int], bytes], stext: int) -> None:
        self._read, self._stext = read, stext
        self._pieces: dict[int, bytes] = {}

    def piece(self, number: int) -> bytes:
        """One of `_PIECES`."""
        if number not in self._pieces:
            self._pieces[number] = self._read(self._stext + number * _PIECE, _PIECE)
        return self._pieces[number]

    def part(self, first: int, end: int) -> bytes:
        """Pieces [first, end), as far as there are."""
        return b"".join(map(self.piece, range(first, min(end, _PIECES))))


def find_tables(
    read: Callable[[int, int], bytes], stext: int, variables: Iterable[int] = ()
) -> Tables | None:
    """The tables after `stext`; None where nothing there has their shape.

    `read` gives memory, zeros where there is none. Read-only data lies between code and variables:
    it is looked for from the first of `variables` downwards, which passes less by than code is.
    """
    image = _Image(read, stext)
    behind = [at for at in ((v - stext) // _PIECE for v in variables) if 0 < at < _PIECES]
    start = min(behind, default=-1)
    for number in (*range(start, -1, -1), *range(start + 1, _PIECES)):
        found = next(_all_tables(image, number), None)
        if found is not None:
            return Tables(*(stext + at for at in astuple(found)))
    return None


def _all_tables(image: _Image, number: int) -> Iterator[Tables]:
    """Tables whose digits begin in a piece, by how far from _stext they are."""
    near = image.piece(number) + image.part(number + 1, number + 2)[: len(_DIGITS) - 1]
    zero = near.find(_DIGITS)
    while zero >= 0:
        # The names take some of the pieces before.
        for before in (1, _NAMES, _PIECES):
            first = max(number - before, 0)
            found = _tables(image.part(first, number + 2), zero + (number - first) * _PIECE)
            if found is None:
                break  # no digits of a table
            if found:
                yield Tables(*(at + first * _PIECE for at in found))
        zero = near.find(_DIGITS, zero + 1)


def _tables(image: bytes, zero: int) -> tuple[int, ...] | None:
    """Offsets into `image`, as `Tables` has them, of tables whose token "0" is at `zero`; empty
    where the names do not fit, None where that is no token.
    """
    tokens = _token_table(image, zero)
    names = None if tokens is None else _names(image, tokens[0])
    if tokens is None or names is None:
        return None if tokens is None else ()
    start, count = names
    base = start - 16
    return start, *tokens, start - 8, base - _aligned(4 * count), base


def _token_table(image: bytes, zero: int) -> tuple[int, int] | None:
    """Where the table whose token "0" is at `zero` begins, and its index."""
    end = zero
    for _ in range(ord("0"), _TOKENS):
        end = image.find(b"\0", end) + 1
        if not end:
            return None
    index = _aligned(end)  # _stext is aligned to a page or more
    if index + 2 * _TOKENS > len(image):
        return None
    offsets = np.frombuffer(image[index : index + 2 * _TOKENS], "<u2").astype(np.int64)
    start = zero - int(offsets[ord("0")])
    if start < 0 or start % 8 or offsets[0] != 0:
        return None
    ends = np.flatnonzero(np.frombuffer(image[start:end], np.uint8) == 0)
    if len(ends) != _TOKENS or not np.array_equal(offsets[1:], ends[:-1] + 1):
        return None
    return start, index


def _names(image: bytes, table: int) -> tuple[int, int] | None:
    """Where the names before the markers before `table` begin, and how many there are."""
    for end, width in ((table, 4), (table - 4, 4), (table, 8)):  # a long until 4.20 (80ffbaa5b1bd)
        markers = _markers(image, end, width)
        if markers is None:
            continue
        here = end - width * len(markers)
        last = int(markers[-1])
        low = 256 * (len(markers) - 1)
        for start in range((here - last) & ~7, max(here - last - _MAX_LAST, 16), -8):
            count = int.from_bytes(image[start - 8 : start - 4], "little")
            if not low < count <= low + _GROUP:
                continue
            if _aligned(_skip(image, start + last, count - low)) == here and _fits(
                image, start, markers
            ):
                return start, count
    return None


def _markers(image: bytes, end: int, width: int) -> NDArray[np.unsignedinteger] | None:
    """Offsets of every 256th name, the first of which is 0 and the last before `end`."""
    reach = min(end, 1 << 18) & -width
    words = np.frombuffer(image[end - reach : end], f"<u{width}")
    falls = np.flatnonzero(np.diff(words.astype(np.int64)) <= 0)
    found = words[int(falls[-1]) + 1 if len(falls) else 0 :]
    # What lies before, the end of the names, may look like a smaller number: the first is 0.
    zeros = np.flatnonzero(found == 0)
    return found[zeros[-1] :] if len(zeros) and len(found) - zeros[-1] > 1 else None


def _skip(image: bytes, at: int, count: int) -> int:
    """The end of `count` packed names, each of them a length and so many tokens."""
    for _ in range(count):
        if at >= len(image):
            return -1
        at += 1 + image[at]
    return at


def _fits(image: bytes, start: int, markers: NDArray[np.unsignedinteger]) -> bool:
    """Whether every marker is where its names end."""
    return all(
        _skip(image, start + first, _GROUP) == start + second
        for first, second in pairwise(markers.tolist())
    )


def _aligned(at: int) -> int:
    return at + 7 & ~7

"""Where the kernel keeps its kallsyms, for kernels whose VMCOREINFO does not say (before 6.0).

scripts/kallsyms.c writes the tables one after the other (2.6 to 5.19): offsets and relative_base
(before 4.6 addresses), num_syms, names, markers, token_table, token_index, each aligned to 8 bytes.
A token is what one byte of a packed name stands for. Digits stand for themselves, which gives the
token table away; all else is found and checked from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_DIGITS = b"".join(bytes([digit, 0]) for digit in b"0123456789")
_TOKENS = 256
_GROUP = 256  # symbols a marker
_IMAGE = 96 << 20  # bytes after _stext in which the read-only data of any kernel ends
_PIECE = 1 << 20
_AFTER = 1 << 14  # bytes after the digits: at most 200 tokens, and the index
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


def find_tables(read: Callable[[int, int], bytes], stext: int) -> Tables | None:
    """The tables after `stext`; None where nothing there has their shape.

    `read` gives memory, zeros where there is none.
    """
    image, searched = bytearray(), 0
    while len(image) < _IMAGE:
        image += read(stext + len(image), _PIECE)
        # What follows the digits is short, and must be there already.
        end = len(image) - _AFTER if len(image) < _IMAGE else _IMAGE
        found = next(_all_tables(image, searched, end), None)
        if found is not None:
            return Tables(*(stext + at for at in found))
        searched = end
    return None


def _all_tables(image: bytearray, begin: int, end: int) -> Iterator[tuple[int, ...]]:
    """Names, token table, token index, num_syms, offsets, relative_base: offsets into `image`, of
    tables whose digits begin in a part of it.
    """
    zero = image.find(_DIGITS, begin)
    while 0 <= zero < end:
        tokens = _token_table(image, zero)
        names = None if tokens is None else _names(image, tokens[0])
        if tokens is not None and names is not None:
            start, count = names
            base = start - 16
            yield start, *tokens, start - 8, base - _aligned(4 * count), base
        zero = image.find(_DIGITS, zero + 1)


def _token_table(image: bytearray, zero: int) -> tuple[int, int] | None:
    """Where the table whose token "0" is at `zero` begins, and its index."""
    end = zero
    for _ in range(ord("0"), _TOKENS):
        end = image.find(b"\0", end) + 1
        if not end:
            return None
    index = _aligned(end)  # _stext is aligned to a page or more
    if index + 2 * _TOKENS > len(image):
        return None
    offsets = np.frombuffer(bytes(image[index : index + 2 * _TOKENS]), "<u2").astype(np.int64)
    start = zero - int(offsets[ord("0")])
    if start < 0 or start % 8 or offsets[0] != 0:
        return None
    ends = np.flatnonzero(np.frombuffer(bytes(image[start:end]), np.uint8) == 0)
    if len(ends) != _TOKENS or not np.array_equal(offsets[1:], ends[:-1] + 1):
        return None
    return start, index


def _names(image: bytearray, table: int) -> tuple[int, int] | None:
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


def _markers(image: bytearray, end: int, width: int) -> NDArray[np.unsignedinteger] | None:
    """Offsets of every 256th name, the first of which is 0 and the last before `end`."""
    reach = min(end, 1 << 18) & -width
    words = np.frombuffer(bytes(image[end - reach : end]), f"<u{width}")
    falls = np.flatnonzero(np.diff(words.astype(np.int64)) <= 0)
    found = words[int(falls[-1]) + 1 if len(falls) else 0 :]
    # What lies before, the end of the names, may look like a smaller number: the first is 0.
    zeros = np.flatnonzero(found == 0)
    return found[zeros[-1] :] if len(zeros) and len(found) - zeros[-1] > 1 else None


def _skip(image: bytearray, at: int, count: int) -> int:
    """The end of `count` packed names, each of them a length and so many tokens."""
    for _ in range(count):
        if at >= len(image):
            return -1
        at += 1 + image[at]
    return at


def _fits(image: bytearray, start: int, markers: NDArray[np.unsignedinteger]) -> bool:
    """Whether every marker is where its names end."""
    return all(
        _skip(image, start + first, _GROUP) == start + second
        for first, second in pairwise(markers.tolist())
    )


def _aligned(at: int) -> int:
    return at + 7 & ~7

"""Numbers out of text, for many places of a buffer at once. Knows no trace.

Each function takes a buffer of bytes and positions in it, and reads a column at a time: the work
is a few passes over the positions, however many there are. Buffers must be padded, so that no
position plus `MOST` or less `MOST` lies outside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST = 32
"""Bytes before and after a position that may be looked at."""

Text = NDArray[np.uint8]
At = NDArray[np.int64]
Numbers = NDArray[np.uint64]
Lengths = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NOT_HEX = 255
_HEX = np.full(256, _NOT_HEX, np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _HEX[np.frombuffer(_digits, np.uint8)] = np.arange(16, dtype=np.uint8)

_HEX_DIGITS = 16
_DECIMAL_DIGITS = 18
_ZERO, _X = ord("0"), ord("x")


def words(text: Text, width: int = 8) -> NDArray[np.uint64]:
    """Every 8 bytes of `text` as a little-endian number, by where they start: a view, no copy."""
    return np.ndarray((len(text) - width + 1,), "<u8", text.data, 0, (1,))


def hexadecimal(text: Text, at: At) -> tuple[Numbers, Lengths]:
    """The hexadecimal numbers that start at `at`, less any ``0x``, and how many digits each has.

    A number of more than 16 digits has length 17; one without digits has length 0.
    """
    value = np.zeros(len(at), np.uint64)
    length = np.zeros(len(at), np.int64)
    alive = np.ones(len(at), bool)
    for column in range(_HEX_DIGITS + 1):
        digit = _HEX[text[at + column]]
        alive &= digit != _NOT_HEX
        if not alive.any():
            break
        length += alive
        if column < _HEX_DIGITS:
            value = np.where(alive, (value << np.uint64(4)) | digit, value)
    return value, length


def past_0x(text: Text, at: At) -> tuple[At, Mask]:
    """Where the digits start: after the ``0x`` of those places that have one, and which have."""
    prefixed = (text[at] == _ZERO) & (text[at + 1] == _X)
    return at + 2 * prefixed, prefixed


def decimal(text: Text, at: At) -> tuple[Numbers, Lengths]:
    """The decimal numbers that start at `at`, and their lengths; over 18 digits: length 19."""
    value = np.zeros(len(at), np.uint64)
    length = np.zeros(len(at), np.int64)
    alive = np.ones(len(at), bool)
    for column in range(_DECIMAL_DIGITS + 1):
        digit = text[at + column] - np.uint8(_ZERO)
        alive &= digit < 10
        if not alive.any():
            break
        length += alive
        if column < _DECIMAL_DIGITS:
            value = np.where(alive, value * np.uint64(10) + digit, value)
    return value, length


def decimal_before(text: Text, end: At) -> tuple[Numbers, Lengths]:
    """The decimal numbers that end before `end`, and their lengths; over 18 digits: length 19."""
    value = np.zeros(len(end), np.uint64)
    length = np.zeros(len(end), np.int64)
    alive = np.ones(len(end), bool)
    weight = 1
    for column in range(1, _DECIMAL_DIGITS + 2):
        digit = text[end - column] - np.uint8(_ZERO)
        alive &= digit < 10
        if not alive.any():
            break
        length += alive
        if column <= _DECIMAL_DIGITS:
            value += np.where(alive, digit, np.uint8(0)).astype(np.uint64) * np.uint64(weight)
            weight *= 10
    return value, length


def ends_with(word: bytes) -> Callable[[NDArray[np.uint64]], NDArray[np.bool_]]:
    """A test for 8-byte words that end with `word`."""
    shift = np.uint64(8 * (8 - len(word)))
    wanted = np.uint64(int.from_bytes(word, "little"))
    return lambda these: (these >> shift) == wanted

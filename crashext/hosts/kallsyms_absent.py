"""A symbol that is asked for and not known, where one is known that a flipped bit makes of it.

A name is packed, one byte for a token of several letters: a flipped bit puts another token in its
place (pcpu_base_addr, pcpu_base_Ldr). What a kernel lacks tells its version: to take a damaged name
for that would be to answer for another kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.kallsyms_check import EXPORT, MADE

_BITS = range(8)
_DATA = frozenset("bBdDrRgG")


class PackedNames:
    """The names of all symbols as the kernel keeps them, in the order of their addresses."""

    def __init__(self, data: bytes, places: NDArray[np.int32], tokens: Sequence[str]) -> None:
        """`places`: where in `data` each begins, with its length."""
        self._data, self._places, self._tokens = data, places, tokens

    def of_row(self, row: int) -> bytes:
        """A packed name: a token a byte, the first of them with the letter that nm prints."""
        at = int(self._places[row])
        length, at = self._data[at], at + 1
        if length & 0x80:
            length, at = length & 0x7F | self._data[at] << 7, at + 1
        return self._data[at : at + length]

    def text(self, packed: bytes) -> str:
        """The name that is packed so, without nm's letter."""
        return "".join(self._tokens[code] for code in packed)[1:]

    def is_variable(self, packed: bytes) -> bool:
        """Whether nm's letter is that of data: BTF bears witness of functions."""
        return self._tokens[packed[0]][:1] in _DATA

    @cached_property
    def _codes(self) -> dict[str, list[int]]:
        """Of each token, and of what each has after its first letter, for where names begin."""
        found: dict[str, list[int]] = {}
        for code, token in enumerate(self._tokens):
            found.setdefault(token, []).append(code)
            found.setdefault("\0" + token[1:], []).append(code)
        return found

    def near(self, name: str) -> Iterator[str]:
        """Names that are `name` with a token in place of another whose byte is a bit apart."""
        longest = max(map(len, self._tokens))
        whole = "\0" + name  # nm's letter is not known
        for begin in range(len(whole)):
            for end in range(begin + 1, min(len(whole), begin + longest) + 1):
                for code, bit in product(self._codes.get(whole[begin:end], ()), _BITS):
                    other = self._tokens[code ^ 1 << bit]
                    yield (whole[:begin] + other + whole[end:])[1:]

    def becomes(self, packed: bytes, name: str) -> bool:
        """Whether one flipped bit makes a name that is packed so into `name`."""
        others = (
            packed[:i] + bytes([code ^ 1 << bit]) + packed[i + 1 :]
            for (i, code), bit in product(enumerate(packed), _BITS)
        )
        return any(self.text(other) == name for other in others)


def exported(names: Collection[str], name: str) -> bool:
    """Whether a symbol's name is there a second time: modules link with it, or one macro made it
    together with others (__flags_get_free_pages, of get_free_pages).
    """
    return EXPORT + name in names or name.startswith(MADE)

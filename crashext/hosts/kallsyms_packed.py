"""Names of symbols as the kernel keeps them: packed, a byte for a token of several letters.

scripts/kallsyms.c packs in one way only: pairs of what is there are put together, the pair of the
highest number first, from left to right wherever it stands. So a text has one packed form, each two
neighbours in it are what their two texts pack to, and what is not so is damaged. A flipped bit that
passes puts another token in place of one (pcpu_base_addr, pcpu_base_Ldr): which name it was is
found from the form of the name that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

TOKENS = 256
_CODES = TOKENS + 2
_LETTERS = "bBdDrRtT"
"""Those of nm's before the names of variables: a function's, too, on 7.2."""
_ROW = 3  # bytes of kallsyms_seqs_of_names


class Packing:
    """What each token is made of, and what follows from that. Raises `ValueError` where the pairs
    that they were put together of are none."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self._pairs = list[tuple[str, str]]()
        for code in range(TOKENS - 1, -1, -1):
            if len(tokens[code]) > 1:
                pair = self._packed(tokens[code])
                if len(pair) != 2:
                    raise ValueError(tokens[code])
                self._pairs.append((pair, chr(code)))

    def _packed(self, text: str) -> str:
        for pair, code in self._pairs:
            text = text.replace(pair, code)
        return text

    def form(self, text: str) -> bytes:
        """A text of ASCII, packed: nm's letter and a name."""
        return self._packed(text).encode("latin-1")

    def text(self, packed: bytes) -> str:
        """The text that is packed so."""
        return "".join(map(self.tokens.__getitem__, packed))

    def strange(self, codes: NDArray[np.uint16]) -> int:
        """How many kinds of neighbours in packed names are not what their texts pack to."""
        seen = np.zeros(_CODES * _CODES, np.bool_)
        seen[codes[:-1].astype(np.int32) * _CODES + codes[1:]] = True
        pairs = np.argwhere(seen.reshape(_CODES, _CODES)[:TOKENS, :TOKENS]).tolist()
        texts = "\0".join(self.tokens[a] + self.tokens[b] for a, b in pairs)
        whole = "\0".join(chr(a) + chr(b) for a, b in pairs)
        again = self._packed(texts)
        if again == whole:
            return 0
        both = zip(again.split("\0"), whole.split("\0"), strict=False)
        return max(sum(ours != theirs for ours, theirs in both), 1)


class PackedNames:
    """The names of all symbols, packed, in the order of their addresses."""

    def __init__(
        self, data: bytes, places: NDArray[np.int32], packing: Packing, order: bytes = b""
    ) -> None:
        """`places`: where in `data` each begins, with its length. `order`: the row of each by its
        name, where the kernel keeps that.
        """
        self._data, self._places, self._packing, self._order = data, places, packing, order

    def in_order(self, order: bytes) -> PackedNames:
        """These, with their rows by name."""
        return PackedNames(self._data, self._places, self._packing, order)

    def codes(self) -> NDArray[np.uint16]:
        """Every byte: numbers of tokens, and two more for where a name begins and for the second
        byte of a length.
        """
        data = np.frombuffer(self._data, np.uint8)
        codes = data.astype(np.uint16)
        codes[self._places] = TOKENS
        codes[self._places[data[self._places] >= 0x80] + 1] = TOKENS + 1
        return codes

    def name(self, row: int) -> str:
        """nm's letter, and the name."""
        return self._packing.text(self._of(row))

    def _of(self, row: int) -> bytes:
        at = int(self._places[row])
        length, at = self._data[at], at + 1
        if length & 0x80:
            length, at = length & 0x7F | self._data[at] << 7, at + 1
        return self._data[at : at + length]

    def near(self, name: str) -> Iterator[str]:
        """Names that a flipped bit makes of a variable's `name`, as it would be packed."""
        seen = set[tuple[str, bytes]]()
        for letter in _LETTERS:
            form = self._packing.form(letter + name)
            for at, code in enumerate(form):
                before, behind = self._packing.text(form[:at])[1:], form[at + 1 :]
                if at and (before, form[at:]) in seen:  # packed alike behind another letter
                    break
                seen.add((before, form[at:]))
                rest = self._packing.text(behind)
                for bit in range(8):
                    token = self._packing.tokens[code ^ 1 << bit]
                    yield before + (token if at else token[1:]) + rest

    def becomes(self, row: int, name: str) -> bool:
        """Whether a flipped bit makes the symbol of a row, which is no function, one of that name,
        and it would be in its place among all names.
        """
        packed = self._of(row)
        forms = (self._packing.form(letter + name) for letter in _LETTERS)
        return any(_bits_apart(packed, form) == 1 for form in forms) and self._fits(row, name)

    def _fits(self, row: int, name: str) -> bool:
        """Whether the row could have that name where the kernel has put names in order."""
        rows = self._by_name
        if rows is None:
            return True
        at = int(np.argmax(rows == row))
        before = self.name(int(rows[at - 1]))[1:] if at else ""
        after = self.name(int(rows[at + 1]))[1:] if at + 1 < len(rows) else name
        return before <= name <= after

    @cached_property
    def _by_name(self) -> NDArray[np.int64] | None:
        return rows_by_name(self._order) if self._order else None


def _bits_apart(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return 8 * max(len(one), len(other))
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def rows_by_name(order: bytes) -> NDArray[np.int64]:
    """Rows of kallsyms_seqs_of_names, three bytes each."""
    rows = np.frombuffer(order, np.uint8).reshape(-1, _ROW).astype(np.int64)
    return np.asarray(rows[:, 0] << 16 | rows[:, 1] << 8 | rows[:, 2], np.int64)

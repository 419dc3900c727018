"""Names that repeat in a trace, as numbers: call sites, tasks, caches, stacks. Bounded.

A trace names a few thousand places millions of times. A hostile one names millions: past the
limit all further ones are one entry, called "(others)", and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=Hashable)
Ids = NDArray[np.int32]

OTHERS = 0
"""Entry for what did not fit any more."""


class Names(Generic[Value]):
    """Pieces of text -> entries, each made from its text once.

    Different pieces of text may be the same entry: ``f+0x1/0x9`` and ``f+0x1`` are one place.
    """

    def __init__(
        self, make: Callable[[bytes], Value], others: Value, limit: int, longest: int = 4096
    ) -> None:
        self._make = make
        self._limit = limit
        self._longest = longest
        self._by_text: dict[bytes, int] = {}
        self._by_value: dict[Value, int] = {others: OTHERS}
        self.values: list[Value] = [others]
        self.left_out = 0
        """Different pieces of text that did not fit any more; one in several calls counts again."""

    def ids(self, texts: Sequence[bytes]) -> Ids:
        """The entries of `texts`."""
        found = list(map(self._by_text.get, texts))
        if None in found:
            new = [i for i, number in enumerate(found) if number is None]
            made = {text: self.id(text) for text in {texts[i]: None for i in new}}
            for i in new:
                found[i] = made[texts[i]]
        return np.array(found, np.int32)

    def id(self, text: bytes) -> int:
        """The entry of one piece of text."""
        number = self._by_text.get(text)
        if number is not None:
            return number
        if len(text) > self._longest:
            self.left_out += 1
            return OTHERS
        value = self._make(text)
        number = self._by_value.get(value)
        if number is None:
            if len(self.values) >= self._limit:
                self.left_out += 1
                return OTHERS
            number = len(self.values)
            self.values.append(value)
            self._by_value[value] = number
        if len(self._by_text) < 2 * self._limit:
            self._by_text[text] = number
        return number

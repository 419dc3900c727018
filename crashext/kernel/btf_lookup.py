"""A few types out of BTF, without taking the rest apart: for a question that wants no numpy.

Names are searched for as bytes, and types counted from the first up to those that are wanted, which
the kernel's central structures come early among. Whether the data is whole, it does not check.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from crashext.hosts.layouts import Layout
from crashext.kernel.btf_types import VOID, BtfKind, BtfTypes
from crashext.kernel.btf_words import EACH, LAST_KIND, ONCE, sections

_HEAD = 12  # bytes that every type begins with


class BtfLookup(BtfTypes):
    """The kernel's own types."""

    def __init__(self, data: bytes) -> None:
        """Raises `ValueError` where the data is no BTF."""
        types, self._text = sections(data)
        # Void, and whatever is not there, takes the three words of zeros at the end.
        self._data = types + bytes(_HEAD)
        self._words = memoryview(self._data).cast("I")
        self._nothing: int = len(types) // 4
        self._begins: list[int] = [self._nothing]
        """Where the types found so far begin, by number; from the second on ascending."""
        self._next = 0
        self._start = _Column(self, 0, 0, 0)
        self.kind = _Column(self, 1, 24, 0x1F)
        self._flags = _Column(self, 1, 31, 1)
        self._vlen = _Column(self, 1, 0, 0xFFFF)
        self._size_or_type = _Column(self, 2, 0, 0xFFFFFFFF)

    def _type(self, owner: int, raw: int) -> int:
        return raw if self.start(raw) != self._nothing else VOID

    def _place(self, owner: int, raw: int) -> int:
        return raw if raw < len(self._text) else -1

    def start(self, number: int) -> int:
        """Where a type begins."""
        if len(self._begins) <= number:
            self._count(number, self._nothing)
        return self._begins[number] if number < len(self._begins) else self._nothing

    def _number(self, word: int) -> int:
        """The type whose words hold this one; void where there is none."""
        if self._next <= word:
            self._count(self._nothing, word)
        return bisect_right(self._begins, word, 1) - 1 if word < self._next else VOID

    def _count(self, number: int, word: int) -> None:
        """Go on until that many types are known, or that word is in one; to the end of all, or to
        where the rest is damaged, if need be."""
        words, begins, at = self._words, self._begins, self._next
        end = min(word + 1, self._nothing)
        while at < end and len(begins) <= number:
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if not 0 < kind <= LAST_KIND:
                break
            begins.append(at)
            at += 3 + ONCE[kind] + EACH[kind] * (info & 0xFFFF)
        self._next = at

    def _mentions(self, name: str) -> Iterator[int]:
        """Words that are the name's place, in order."""
        at = self._text.find(b"\0" + name.encode() + b"\0") if name else -1
        wanted, here = struct.pack("<I", max(at, 0) + 1), -1
        while at >= 0 and (here := self._data.find(wanted, here + 1)) >= 0:
            if here % 4 == 0:
                yield here // 4

    def layout(self, type_name: str) -> Layout | None:
        """Layout of ``struct x`` or ``union x``; None where there is no such type."""
        word, _, name = type_name.partition(" ")
        kind = {"struct": BtfKind.STRUCT, "union": BtfKind.UNION}.get(word)
        for at in self._mentions(name):
            if kind is None or self._words[at + 1] >> 24 & 0x1F != kind:
                continue
            number = self._number(at)
            if number and self._begins[number] == at:
                return self.layout_of(number, type_name)
        return None

    def enumerator(self, name: str) -> int | None:
        """Value of the first enumerator called `name`; None where no enum of 32 bits has it."""
        for at in self._mentions(name):
            number = self._number(at)
            beyond = at - self.start(number) - 3
            if number and self.kind[number] == BtfKind.ENUM and beyond >= 0 and beyond % 2 == 0:
                return int(self._words[at + 1])
        return None


class _Column:
    """Some bits of one word of each type."""

    def __init__(self, types: BtfLookup, word: int, shift: int, mask: int) -> None:
        self._types, self._word, self._shift, self._mask = types, word, shift, mask

    def __getitem__(self, number: int, /) -> int:
        start = self._types.start(number)
        if not self._mask:
            return start
        word: int = self._types._words[start + self._word]
        return word >> self._shift & self._mask

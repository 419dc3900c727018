"""BTF types as numbers: what one is called, refers to, holds and measures. It needs no numpy.

The format is that of include/uapi/linux/btf.h, Documentation/bpf/btf.rst. Where the types lie, and
how one is found, those know that make them: `btf` takes everything apart, `btf_lookup` next to
nothing.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from crashext.hosts.layouts import Layout, Member

MAX_NAME = 256
MAX_CHAIN = 64  # modifiers and typedefs around one type
_MOST_INSIDE = 256  # anonymous structs and unions of one type
VOID = 0


class BtfKind(enum.IntEnum):
    """BTF_KIND_*; 17 is from 5.16, 18 from 5.17, 19 from 6.0."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = frozenset(
    (BtfKind.TYPEDEF, BtfKind.VOLATILE, BtfKind.CONST, BtfKind.RESTRICT, BtfKind.TYPE_TAG)
)
_SIZED = frozenset(
    (
        BtfKind.INT,
        BtfKind.STRUCT,
        BtfKind.UNION,
        BtfKind.ENUM,
        BtfKind.ENUM64,
        BtfKind.FLOAT,
    )
)


@dataclass(frozen=True)
class BtfMember:
    """A member as its struct declares it; offsets in bits from the struct's start."""

    name: str
    type: int
    bit_offset: int
    bit_size: int
    """0 for a member that is not a bit field."""


class Column(Protocol):
    """A number of each type."""

    def __getitem__(self, number: int, /) -> int: ...


class BtfTypes(ABC):
    """Types under one numbering: a type is an integer, 0 is void."""

    kind: Column
    """`BtfKind` of each type."""
    _size_or_type: Column
    """The third word of each type: a size in bytes, or another type as its unit numbers it."""
    _vlen: Column
    _flags: Any
    """Whether each has bit fields."""
    _start: Column
    """Where each begins in `_words`."""
    _words: memoryview
    _text: bytes

    @abstractmethod
    def _type(self, owner: int, raw: int) -> int:
        """A type number as `owner`'s unit writes it -> ours; void where there is no such type."""

    @abstractmethod
    def _place(self, owner: int, raw: int) -> int:
        """Where in `_text` a string begins that `owner`'s unit names; -1: nowhere."""

    def _string(self, owner: int, raw: int) -> str:
        at = self._place(owner, raw)
        if at < 0:
            return ""
        end = self._text.find(b"\0", at, at + MAX_NAME)
        return self._text[at : end if end >= 0 else at + MAX_NAME].decode(
            "ascii", "backslashreplace"
        )

    def name(self, number: int) -> str:
        """A type's own name; "" where it has none."""
        return self._string(number, self._words[self._start[number]]) if number else "void"

    def target(self, number: int) -> int:
        """What a pointer, typedef, modifier, function or variable refers to."""
        return self._type(number, self._size_or_type[number])

    def strip(self, number: int) -> int:
        """The type under typedefs, const, volatile, restrict and tags."""
        for _ in range(MAX_CHAIN):
            if self.kind[number] not in MODIFIERS:
                return number
            number = self.target(number)
        return VOID

    def _entries(self, number: int, width: int) -> list[list[int]]:
        start = self._start[number] + 3
        flat = self._words[start : start + width * self._vlen[number]].tolist()
        return [flat[i : i + width] for i in range(0, len(flat), width)]

    def members(self, number: int) -> Iterator[BtfMember]:
        """Members of a struct or union, as declared."""
        bit_fields = bool(self._flags[number])
        for name, kind, offset in self._entries(number, 3):
            size = offset >> 24 if bit_fields else 0
            yield BtfMember(
                self._string(number, name),
                self._type(number, kind),
                offset & 0xFFFFFF if bit_fields else offset,
                size,
            )

    def array(self, number: int) -> tuple[int, int]:
        """(type of the elements, how many)."""
        at = self._start[number] + 3
        element, _, count = self._words[at : at + 3].tolist()
        return self._type(number, element), count

    def size(self, number: int) -> int:
        """sizeof in bytes; 0 for what has none, arrays of unknown length included."""
        count = 1
        for _ in range(MAX_CHAIN):
            number = self.strip(number)
            kind = self.kind[number]
            if kind == BtfKind.PTR:
                return 8 * count
            if kind != BtfKind.ARRAY:
                break
            number, n = self.array(number)
            count *= n
        return self._size_or_type[number] * count if self.kind[number] in _SIZED else 0

    def layout_of(self, number: int, name: str) -> Layout:
        """How a struct or union lies in memory, as a host words it."""
        members: dict[str, Member] = {}
        self._flatten(number, 0, members, set())
        return Layout(name, self.size(number), members)

    def _flatten(self, number: int, base: int, members: dict[str, Member], seen: set[int]) -> None:
        """Collect members with offsets from the outermost struct, through anonymous ones.

        Each of those once, `seen`: it has no other names. Damaged ones may hold one another.
        """
        seen.add(number)
        for member in self.members(number):
            bits = base + member.bit_offset
            if member.name:
                members.setdefault(
                    member.name,
                    Member(
                        bits // 8,
                        self.size(member.type),
                        bits % 8 if member.bit_size else 0,
                        member.bit_size,
                    ),
                )
                continue
            inner = self.strip(member.type)
            aggregate = self.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION)
            if aggregate and inner not in seen and len(seen) < _MOST_INSIDE:
                self._flatten(inner, bits, members, seen)

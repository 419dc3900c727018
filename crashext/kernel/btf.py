"""BTF: the types that the kernel and its modules carry in their own memory.

It parses the format (include/uapi/linux/btf.h, Documentation/bpf/btf.rst). It knows nothing of
objects. The data comes from the dump: every offset in it is checked, and what
points outside is left out.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.btf_types import MAX_CHAIN, MAX_NAME, MODIFIERS, VOID, BtfKind, BtfTypes
from crashext.kernel.btf_unit import parse, parse_kernel
from crashext.kernel.btf_words import EACH

_NAMED_ENTRIES = {
    kind: EACH[kind]
    for kind in (
        *(BtfKind.STRUCT, BtfKind.UNION, BtfKind.ENUM, BtfKind.ENUM64),
        BtfKind.FUNC_PROTO,
    )
}
"""Words of each entry, the first of which is a name's place."""
_MANY = 1 << 10
_MANY_ASKED = 64
_Named = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Where the names of some things begin in the text, ascending, and the things."""


class Btf(BtfTypes):
    """The types of the kernel and of its modules under one numbering.

    A type is an integer: the kernel's own number for its types, and numbers after those for each
    module's. 0 is void. A number that the data gets wrong counts as void.
    """

    _flags: NDArray[np.bool_]
    _start: memoryview

    def __init__(self, kernel: bytes, modules: tuple[tuple[str, bytes], ...] = ()) -> None:
        """Raises `ValueError` where `kernel` is no BTF. Modules that are none are left out."""
        base = parse_kernel(kernel)
        if base is None:
            raise ValueError("no BTF data")
        parsed = (parse(name, data) for name, data in modules)
        units = [base, *(unit for unit in parsed if unit is not None)]
        self.modules = tuple(unit.name for unit in units)
        """Names by unit; the first is "", the kernel."""
        self._base_types = len(base.starts) + 1
        self._base_text = len(base.strings)
        counts = [len(unit.starts) for unit in units]
        # Split BTF counts on where the kernel's types and strings end; here every module's
        # have a place of their own, `shift` further on.
        before = np.cumsum([0, *counts]).tolist()
        self._type_shift = [0, *(1 + n - self._base_types for n in before[1:-1])]
        lengths = np.cumsum([0, *(len(unit.strings) for unit in units)]).tolist()
        self._text_shift = [0, *(n - self._base_text for n in lengths[1:-1])]
        self._text = b"".join(unit.strings for unit in units)
        offsets = np.cumsum([0, *(len(unit.words) for unit in units)]).tolist()
        words = np.concatenate([*(unit.words for unit in units), np.zeros(3, np.uint32)])
        # Void takes the three words of zeros at the end.
        starts = [np.array([len(words) - 3], np.int64)]
        starts += [unit.starts + at for unit, at in zip(units, offsets, strict=False)]
        start = np.concatenate(starts)
        info = words[start + 1]
        self._kinds = (info >> np.uint32(24) & np.uint32(0x1F)).astype(np.uint8)
        self._sizes = words[start + 2]
        self._counts = (info & np.uint32(0xFFFF)).astype(np.int64)
        self._flags = info >> np.uint32(31) != 0
        self._starts = start
        # One element of a memoryview is a Python int, in a third of the time numpy takes.
        self._words, self._start = words.data, start.data
        self.kind = self._kinds.tobytes()
        """`BtfKind` of each type."""
        self._size_or_type = self._sizes.data
        """The third word of each type: a size in bytes, or another type as its unit numbers it."""
        self._vlen = self._counts.data
        units_of = [0, *np.repeat(np.arange(len(units)), counts).tolist()]
        self._unit = np.array(units_of, np.int32).data
        self._names: dict[int, dict[str, list[int]]] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._start)

    def texts(self) -> frozenset[str]:
        """Every name of anything."""
        return frozenset(self._text.decode("ascii", "backslashreplace").split("\0"))

    @property
    def base(self) -> tuple[int, int]:
        """The number that a module's types, and the place that its strings begin at."""
        return self._base_types, self._base_text

    def module(self, number: int) -> str:
        """The module that a type belongs to; "" for the kernel."""
        return self.modules[self._unit[number]]

    def _type(self, owner: int, raw: int) -> int:
        """A type number as `owner`'s unit writes it -> ours; void where there is no such type."""
        if raw < self._base_types:
            return raw
        unit = self._unit[owner]
        number: int = raw + self._type_shift[unit]
        if not unit or number >= len(self._start) or self._unit[number] != unit:
            return VOID
        return number

    def _place(self, owner: int, raw: int) -> int:
        if raw < self._base_text:
            return raw
        unit = self._unit[owner]
        return raw + self._text_shift[unit] if unit else -1

    def enumerators(self, number: int) -> dict[int, str]:
        """Names of an enum by value."""
        result: dict[int, str] = {}
        if self.kind[number] == BtfKind.ENUM64:
            for name, low, high in self._entries(number, 3):
                result.setdefault(high << 32 | low, self._string(number, name))
        else:
            for name, value in self._entries(number, 2):
                result.setdefault(value, self._string(number, name))
        return result

    def integer(self, number: int) -> tuple[bool, bool, bool]:
        """(signed, char, bool) of an INT."""
        encoding = self._words[self._start[number] + 3] >> 24 & 0xF
        return bool(encoding & 1), bool(encoding & 2), bool(encoding & 4)

    def prototype(self, number: int) -> tuple[int, ...]:
        """Return type, then the parameters' types, of a FUNC_PROTO."""
        return (
            self.target(number),
            *(self._type(number, kind) for _, kind in self._entries(number, 2)),
        )

    def section(self, name: str) -> dict[str, int]:
        """Offset of each variable of the sections called `name`."""
        found: dict[str, int] = {}
        for number in self.named(BtfKind.DATASEC).get(name, []):
            found |= {
                self.name(self._type(number, kind)): offset
                for kind, offset, _ in self._entries(number, 3)
            }
        return found

    @cached_property
    def last_member(self) -> NDArray[np.int64]:
        """Byte offset of the last member of each struct: int64[n]; 0 for other types."""
        result = np.zeros(len(self), np.int64)
        some = np.flatnonzero((self._kinds == BtfKind.STRUCT) & (self._counts > 0))
        at = self._starts[some] + 3 * self._counts[some] + 2
        raw = np.asarray(self._words)[at].astype(np.int64)
        result[some] = np.where(self._flags[some], raw & 0xFFFFFF, raw) // 8
        return result

    def flexible(self, number: int) -> bool:
        """Does a struct end in an array of no fixed length?"""
        if not self._vlen[number]:
            return False
        *_, (_, kind, _) = self._entries(number, 3)
        last = self.strip(self._type(number, kind))
        return self.kind[last] == BtfKind.ARRAY and self.array(last)[1] == 0

    def structs(self, low: int, high: int) -> NDArray[np.int64]:
        """Structs of `low` to `high` bytes."""
        fits = (self._sizes >= low) & (self._sizes <= high)
        return np.flatnonzero((self._kinds == BtfKind.STRUCT) & fits)

    def named(self, kind: BtfKind) -> dict[str, list[int]]:
        """Every type of a kind by name: the kernel's before the modules'."""
        if kind not in self._names:
            table: dict[str, list[int]] = {}
            numbers = np.flatnonzero(self._kinds == kind)
            for number, name in zip(numbers.tolist(), self._names_of(numbers), strict=True):
                table.setdefault(name, []).append(number)
            table.pop("", None)
            self._names[kind] = table
        return self._names[kind]

    def _names_of(self, numbers: NDArray[np.int64]) -> list[str]:
        """Names of types; of many at once, by cutting all text into its strings."""
        if len(numbers) < _MANY:
            return [self.name(number) for number in numbers.tolist()]
        place = self._places(self._starts[numbers], numbers)
        text = np.frombuffer(self._text, np.uint8)
        begins = np.append(0, np.flatnonzero(text == 0) + 1)
        at = np.searchsorted(begins, place, side="right") - 1
        strings = self._text.decode("ascii", "backslashreplace").split("\0")
        names = [strings[i] for i in at.tolist()]
        long = np.diff(begins, append=len(text) + 1) > MAX_NAME
        for i in np.flatnonzero(long[at] | (begins[at] != place)).tolist():
            names[i] = self.name(int(numbers[i]))
        return names

    def _places(self, at: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the text the names begin whose offsets are the words at the places `at`."""
        raw = np.asarray(self._words)[at].astype(np.int64)
        shift = np.array(self._text_shift, np.int64)[np.asarray(self._unit)[owners]]
        return np.where(raw >= self._base_text, raw + shift, raw)

    @cached_property
    def _function_names(self) -> _Named:
        numbers = np.flatnonzero(self._kinds == BtfKind.FUNC)
        return self._sorted_names(self._starts[numbers], numbers, numbers)

    @cached_property
    def _enumerator_names(self) -> _Named:
        """Of each the place of its name among the words, which its value follows."""
        enums = np.flatnonzero((self._kinds == BtfKind.ENUM) | (self._kinds == BtfKind.ENUM64))
        counts = self._counts[enums]
        first = np.repeat(np.cumsum(counts) - counts, counts)
        width = np.where(self._kinds[enums] == BtfKind.ENUM64, 3, 2)
        at = np.repeat(self._starts[enums] + 3, counts)
        at += np.repeat(width, counts) * (np.arange(len(at)) - first)
        return self._sorted_names(at, np.repeat(enums, counts), at)

    def _sorted_names(
        self, at: NDArray[np.int64], owners: NDArray[np.int64], items: NDArray[np.int64]
    ) -> _Named:
        """`items` whose names' offsets are the words at the places `at`."""
        place = self._places(at, owners)
        order = np.argsort(place, kind="stable")
        return place[order], items[order]

    def _called(self, name: str, among: _Named) -> list[int]:
        """Those called `name`, in order, without reading the others' names."""
        places, items = among
        wanted, found, at = b"\0" + name.encode() + b"\0", list[int](), -1
        while name and (at := self._text.find(wanted, at + 1)) >= 0:
            low, high = np.searchsorted(places, [at + 1, at + 2]).tolist()
            found += items[low:high].tolist()
        return sorted(found)

    def function_names(self) -> set[str]:
        """Names of all functions."""
        return set(self._names_of(np.flatnonzero(self._kinds == BtfKind.FUNC))) - {""}

    def functions(self, name: str) -> list[int]:
        """Every function called `name`, as `named` has them."""
        self._asked += 1
        # Each look through the text takes a millisecond, which a hundred times is a table's.
        if self._asked > _MANY_ASKED:
            return self.named(BtfKind.FUNC).get(name, [])
        return self._called(name, self._function_names)

    def enumerator(self, name: str) -> int | None:
        """Value of the first enumerator called `name`; None where no enum has it."""
        places = self._called(name, self._enumerator_names)
        if not places:
            return None
        owner = int(np.searchsorted(self._starts[1:], places[0], side="right"))
        low, high = self._words[places[0] + 1 : places[0] + 3].tolist()
        return low | (high << 32 if self.kind[owner] == BtfKind.ENUM64 else 0)

    def enumerator_row(self, name: str) -> tuple[list[int], int]:
        """The values of the enum whose enumerator `enumerator` takes, as declared, and which it is;
        none where it is one of 64 bits.
        """
        places = self._called(name, self._enumerator_names)
        if not places:
            return [], 0
        owner = int(np.searchsorted(self._starts[1:], places[0], side="right"))
        if self.kind[owner] != BtfKind.ENUM:
            return [], 0
        values = [value for _, value in self._entries(owner, 2)]
        return values, (places[0] - self._start[owner] - 3) // 2

    def places_of(self, kind: BtfKind) -> set[int]:
        """Where in the text the names of a kind's types begin."""
        numbers = np.flatnonzero(self._kinds == kind)
        return set(self._places(self._starts[numbers], numbers).tolist())

    def enumerator_places(self) -> set[int]:
        """Where enumerators' begin."""
        return set(self._enumerator_names[0].tolist())

    def member_places(self, number: int) -> set[int]:
        """Where those of a type's members begin, through nameless ones."""
        found, seen, new = set[int](), {number}, [number]
        while new and len(seen) < _MANY:
            owner = new.pop()
            entries = self._entries(owner, 3)
            for (name, *_), member in zip(entries, self.members(owner), strict=True):
                inner = self.strip(member.type)
                if member.name:
                    found.add(self._place(owner, name))
                elif self.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION) and inner not in seen:
                    seen.add(inner)
                    new.append(inner)
        return found

    def unused(self, name: str) -> int:
        """Where the text has a name that nothing is called; -1 where something is, and where it
        has it not.
        """
        at = self._text.find(b"\0" + name.encode() + b"\0") + 1
        return at if name and at and at not in self._used else -1

    def text_at(self, place: int) -> str:
        """The name that begins at a place of the text."""
        return self._text[place : self._text.find(b"\0", place)].decode("ascii", "backslashreplace")

    @cached_property
    def _used(self) -> set[int]:
        """Places of names that something is called."""
        found = [self._places(self._starts, np.arange(len(self)))]
        for kind, width in _NAMED_ENTRIES.items():
            owners = np.flatnonzero(self._kinds == kind)
            counts = self._counts[owners]
            nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            at = np.repeat(self._starts[owners] + 3, counts) + width * nth
            found.append(self._places(at, np.repeat(owners, counts)))
        return set(np.unique(np.concatenate(found)).tolist())

    def find(self, name: str, module: str | None = None) -> int | None:
        """The type called ``struct x``, ``union x``, or any of these called ``x``, or a typedef;
        with `module` the one that this module has, "" the kernel.
        """
        word, _, rest = name.strip().rpartition(" ")
        kinds = {
            "struct": (BtfKind.STRUCT,),
            "union": (BtfKind.UNION,),
            "": (BtfKind.STRUCT, BtfKind.UNION, BtfKind.TYPEDEF),
        }.get(word.strip(), ())
        for kind in kinds:
            for number in self.named(kind).get(rest, []):
                if module not in (None, self.module(number)):
                    continue
                inner = self.strip(number)
                if self.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION):
                    return inner
        return None

    def describe(self, number: int) -> str:
        """A type as C writes it, roughly: ``struct dentry *``, ``unsigned int[4]``."""
        stars = ""
        for _ in range(MAX_CHAIN):
            kind = self.kind[number]
            if kind == BtfKind.PTR:
                stars = " *" if not stars else stars + "*"
                number = self.target(number)
            elif kind in MODIFIERS and kind != BtfKind.TYPEDEF:
                number = self.target(number)
            elif kind == BtfKind.ARRAY:
                number, count = self.array(number)
                stars += f"[{count or ''}]"
            else:
                break
        kind = self.kind[number]
        word = {
            BtfKind.STRUCT: "struct ",
            BtfKind.UNION: "union ",
            BtfKind.ENUM: "enum ",
            BtfKind.ENUM64: "enum ",
            BtfKind.FWD: "struct ",
            BtfKind.FUNC_PROTO: "function",
        }.get(BtfKind(kind), "")
        return f"{word}{self.name(number)}{stars}".strip()

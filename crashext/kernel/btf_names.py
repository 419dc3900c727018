"""What a kernel's structs, unions and typedefs are called, and what to say of a name that none has.

BTF is gone through once, for the names alone; for a question that wants no numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crashext.kernel.btf_words import EACH, LAST_KIND, ONCE, sections

_STRUCT, _UNION, _TYPEDEF = 4, 5, 8
_HEAD = [3 + words for words in ONCE]
_NAME = re.compile(r"\w{1,255}", re.ASCII)
_CLOSE = 3


@dataclass(frozen=True)
class TypeNames:
    """In the order in which they are declared: the kernel's before the modules'."""

    structs: tuple[str, ...]
    unions: tuple[str, ...]
    typedefs: frozenset[str]

    def wrong(self, name: str) -> str:
        """What to say of a type that there is none of; "" where there is one, or may be."""
        name = " ".join(name.split())
        word, _, bare = name.rpartition(" ")
        among = {"struct": self.structs, "union": self.unions}.get(
            word, (*self.structs, *self.unions, *self.typedefs)
        )
        if word not in ("", "struct", "union") or bare in among:
            return ""
        return no_such_type(name, close_to(name, (*self.structs, *self.unions)))


def close_to(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names among `known` that somebody may have meant."""
    from rapidfuzz import fuzz, process  # for mistakes alone

    bare = name.rpartition(" ")[2]
    close = process.extract(bare, known, scorer=fuzz.ratio, limit=_CLOSE, score_cutoff=60)
    return tuple(found for found, _, _ in close)


def no_such_type(name: str, close: Sequence[str]) -> str:
    """That a kernel has none of that name."""
    hint = ", ".join(close[:_CLOSE])
    return f"this kernel has no {name}" + (f": did you mean {hint}?" if hint else "")


def type_names(kernel: bytes, modules: Sequence[bytes]) -> TypeNames:
    """Of the kernel's BTF and its modules'. Raises `ValueError` where any makes no sense."""
    types, base = sections(kernel)
    found: dict[int, dict[str, None]] = {_STRUCT: {}, _UNION: {}, _TYPEDEF: {}}
    _collect(types, base, b"", found)
    for data in modules:
        mine, text = sections(data)
        _collect(mine, base, text, found)
    return TypeNames(tuple(found[_STRUCT]), tuple(found[_UNION]), frozenset(found[_TYPEDEF]))


def _collect(types: bytes, base: bytes, text: bytes, found: dict[int, dict[str, None]]) -> None:
    """Names of the `types`. A module's strings go on where the kernel's end."""
    words = memoryview(types).cast("I")
    places: dict[int, list[int]] = {kind: [] for kind in found}
    at, end = 0, len(words)
    while at + 1 < end:
        info = words[at + 1]
        kind = info >> 24 & 0x1F
        if not 0 < kind <= LAST_KIND:
            raise ValueError("a type of no known kind")
        if kind in places:
            places[kind].append(words[at])
        at += _HEAD[kind] + EACH[kind] * (info & 0xFFFF)
    if at != end:
        raise ValueError("a type that is cut off")
    for kind, names in places.items():
        found[kind] |= dict.fromkeys(_string(base, text, place) for place in names if place)


def _string(base: bytes, text: bytes, place: int) -> str:
    own, at = (base, place) if place < len(base) else (text, place - len(base))
    name = own[at : own.find(b"\0", at)].decode("ascii", "backslashreplace")
    if not _NAME.fullmatch(name):
        raise ValueError("a name that is none")
    return name

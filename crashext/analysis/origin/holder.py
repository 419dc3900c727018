"""Whether a place in the code keeps an address in what has the pointers to a group of objects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum

from crashext.analysis.reach.pointers import RESERVE
from crashext.analysis.results.evidence import Pointer
from crashext.kernel.origin.bases import Base, Bases
from crashext.kernel.origin.kept import Kept

_STEM = re.compile(r"(.{4,}?)(?:_(?:cache|cachep|jar|slab))?", re.ASCII)
"""A cache's name less what says that it is one: it is the beginning of the struct's."""


_NEAR = 0x80
"""How far from the beginning of a struct code may have the address of a part of it."""


class Keeps(IntEnum):
    """How sure it is that a place keeps an address there."""

    NO = 0
    PERHAPS = 1
    """At that offset of what is not known."""
    FITS = 2
    """At that offset of a struct that is as large as the holders."""
    YES = 3
    """In what the holders are: their cache was made for that struct."""
    MADE = 4
    """In an object of the holders' cache that the function has just allocated itself."""


class Holder:
    """What holds the objects by one kind of pointer."""

    def __init__(self, pointer: Pointer, below: int, cache: int = 0) -> None:
        """`cache` is the address of the holders'; `below` the size up to which a smaller kmalloc
        cache would do, -1 for another one."""
        self._cache = cache
        self._pointer, self._below = pointer, below
        self.strict = below < 0 and bool(pointer.size)
        """All of them are of one type, whose size is known."""
        stem = _STEM.fullmatch(pointer.holder) if self.strict else None
        self._stem = None if stem is None else stem[1]
        self._structs: set[str] = set()

    @property
    def struct(self) -> str:
        """That of all who keep it there; "" where those differ, or it has no name."""
        return next(iter(self._structs)) if len(self._structs) == 1 else ""

    def of(self, kept: Iterable[Kept], bases: Bases) -> Keeps:
        """Whether one of `kept` is such a pointer, in what may be such a holder."""
        best = Keeps.NO
        for one in kept:
            best = max(best, self._judge(one, bases))
        return best

    def _judge(self, kept: Kept, bases: Bases) -> Keeps:
        pointer = self._pointer
        if kept.inside != pointer.inside or kept.where == "variable":
            return Keeps.NO
        if pointer.struct == RESERVE:
            return Keeps.YES if kept.where == "reserve" else Keeps.NO
        if kept.where == "reserve":
            return Keeps.NO  # a tree's node is an array, too, but no mempool filled it
        if pointer.offset < 0 or kept.where == "array":
            in_array = kept.where == "array" and pointer.offset in (-1, kept.at)
            return Keeps.PERHAPS if in_array else Keeps.NO
        if pointer.own and kept.at == pointer.offset - pointer.inside:
            # Through the list's head inside a neighbour, which is of the list's type alone.
            return Keeps.PERHAPS
        before = pointer.offset - kept.at
        if before and not 0 < before < (pointer.size if self.strict else _NEAR):
            return Keeps.NO
        base = bases.of(kept)
        if base is None:
            return Keeps.PERHAPS if kept.at == pointer.offset else Keeps.NO
        found = self._fits(base, kept.at + base.offset, bases)
        if found > Keeps.PERHAPS:
            # The offset is one of the holder, which a small part of it does not name.
            part = self.strict and bases.anywhere(base) and not base.cache
            self._structs.add("" if part else base.name)
        return found

    def _fits(self, base: Base, at: int, bases: Bases) -> Keeps:
        pointer = self._pointer
        if base.cache:
            there = base.cache == self._cache and at == pointer.offset
            if not there:
                return Keeps.NO
            return Keeps.FITS if self._below >= 0 else Keeps.MADE
        if pointer.struct:
            right = base.name == pointer.struct and at == pointer.offset
            return Keeps.YES if right else Keeps.NO
        if not pointer.size:  # a variable, of whatever type
            return Keeps.FITS if at == pointer.offset else Keeps.NO
        if self._below >= 0:
            large = self._below < base.size or bases.flexible(base)
            fits = base.size <= pointer.size and large and at == pointer.offset
            return Keeps.FITS if fits else Keeps.NO
        return self._in_cache(base, at, bases)

    def _in_cache(self, base: Base, at: int, bases: Bases) -> Keeps:
        """In an object of a cache of its own."""
        pointer = self._pointer
        if at == pointer.offset and base.name == pointer.holder:
            # Some have a part that the processor decides about: task_struct.
            return Keeps.YES
        names = list(bases.wholes(base, pointer.offset - at, pointer.size))
        if at == pointer.offset and base.size == pointer.size:
            names.append(base.name)
        named = any(self._stem is not None and name.startswith(self._stem) for name in names)
        if bases.anywhere(base) and base.size < pointer.size:
            # It says little where it is not in the holders' own struct.
            return Keeps.FITS if named else Keeps.NO
        if not named and names and bases.known(pointer.holder, pointer.size):
            # The cache has that struct's name: another one of its size is hardly in it.
            return Keeps.PERHAPS
        return Keeps.YES if named else Keeps.FITS if names else Keeps.NO

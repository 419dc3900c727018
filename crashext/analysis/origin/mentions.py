"""Places in the code whose function names a symbol that a group's objects hold, or hang at.

An ops table, a callback or a kobj_type mostly comes from the function that allocates, handed on to
whoever writes it; and who makes an object mostly puts it on its list. How telling that is depends
on how many functions name the symbol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crashext.analysis.likeness.words import Kind, WordMap
from crashext.analysis.origin.places import allocating, certain, counted, foreign_of
from crashext.analysis.results.callsites import Allocating, Named
from crashext.analysis.results.evidence import Head
from crashext.hosts.base import U64
from crashext.hosts.plain import answered
from crashext.kernel.origin.requests import requests_of
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.families import family
from crashext.kernel.slab.view import KernelView

_MOST_WORDS = 8
_HELD = 0.95
"""Share of a group that holds a symbol at one place for the group to be asked about it."""
_PASSED = 0.5
"""How often the function that allocates names a symbol itself; else it is given it."""
_BY_CHANCE = 2.0
"""Somebody names it in any case, and who does is more likely than others to ask for an object."""
_MOST = 9.0  # of what symbols say together
_NEXT = 0.5
"""What each further symbol says that holders have: they are of one stroke of code."""
_FEW = 64
"""Functions that name a symbol, above which places are not looked for by it."""
_MOST_HANDED = 2
"""Symbols that no function names which asks for an object, for which all text is looked through."""
HEAD, HOLDERS = -1, -2
"""In place of an offset: they hang at it; what points at them has it."""
_SYMBOLS = (Kind.TEXT_SYMBOL, Kind.DATA_SYMBOL, Kind.MODULE)


@dataclass(frozen=True)
class Told:
    """What a symbol says for the places that name it."""

    word: int
    offset: int
    weight: float
    calls: frozenset[int]
    handed: bool
    """Not they name it, but who calls them."""


@dataclass(frozen=True)
class Symbols:
    """What the symbols that a group holds say of the places that may have allocated it."""

    told: tuple[Told, ...] = ()
    more: tuple[Allocating, ...] = ()
    """Places of the kernel itself whose size is not constant, and which name one."""

    @classmethod
    def find(
        cls,
        view: KernelView,
        cache: SlabCache,
        words: WordMap,
        head: Head | None = None,
        beyond: Sequence[int] = (),
    ) -> Symbols:
        held = _held(words)
        if head is not None:
            held.append((int(head.address), HEAD))
        known = {word for word, _ in held}
        held += [(word, HOLDERS) for word in dict.fromkeys(map(int, beyond)) if word not in known]
        found: tuple[Named, ...] | None = ()
        if held:
            key = f"named {cache.name} " + ",".join(f"{w:x}" for w, _ in held)
            found = answered(view.host, key, tuple[Named, ...], lambda: _find(view, cache, held))
        named = found or ()
        told = tuple(
            Told(
                int(one.word),
                one.offset,
                math.log(
                    _PASSED / _BY_CHANCE * max(one.functions, 1) / max(one.naming, one.handed, 1)
                ),
                frozenset(int(a) for a in one.calls),
                bool(one.handed),
            )
            for one in named
        )
        return cls(told, tuple({a.site.address: a for one in named for a in one.more}.values()))

    def of(
        self, call: int, stored: set[int], contradicted: bool = False
    ) -> tuple[float, list[Told]]:
        """The weight for the place that calls at `call`, and the symbols that it names; what it
        is seen to write was weighed already.

        Where the objects contradict what it writes, what only their holders have says nothing for
        it: that is of the holders first, and many places have to do with those.
        """
        # A list's head is written where one is put on it, but is in the last of them alone.
        new = [t for t in self.told if t.offset < 0 or t.word not in stored]
        asked = [t for t in new if t.weight > 0]
        named = [t for t in asked if call in t.calls]
        if contradicted:
            named = [t for t in named if t.offset != HOLDERS]
        if not asked:
            return 0.0, []
        if not named:
            return math.log(1 - _PASSED), []
        beyond = [t.weight for t in named if t.offset == HOLDERS]
        own = sum(t.weight for t in named if t.offset != HOLDERS)
        return min(_MOST, own + _together(beyond)), named


def _together(weights: Sequence[float]) -> float:
    """Of what one stroke of code has written into what points at them."""
    first = max(weights, default=0.0)
    return first + _NEXT * (sum(weights) - first)


def _held(words: WordMap) -> list[tuple[int, int]]:
    """(symbol's address, offset) of what nearly all hold at one place."""
    found: dict[int, int] = {}
    for i in range(words.values.shape[1]):
        values, kinds = words.values[:, i], words.kinds[:, i]
        first = values[len(values) // 2]
        same = values == first
        if Kind(int(kinds[len(kinds) // 2])) in _SYMBOLS and np.mean(same) >= _HELD:
            found.setdefault(int(first), 8 * i)
    return list(found.items())[:_MOST_WORDS]


def _find(view: KernelView, cache: SlabCache, held: Sequence[tuple[int, int]]) -> tuple[Named, ...]:
    known = requests_of(view.host, view.caches)
    places = list(known.from_cache(cache))
    texts = known.mentions(family(cache.name)[0].startswith("kmalloc-"))
    foreign = foreign_of(known)
    result = []
    looked = 0
    for word, offset in held:
        functions = texts.of(word)
        naming_it = len(functions)
        if not functions and offset >= 0 and looked < _MOST_HANDED:
            looked += 1
            functions = texts.among(known.handed.of(word))
        naming = [r for r in places if r.function.address in functions]
        uncertain = [r for r in naming if not certain(r) and not r.function.module]
        result.append(
            Named(
                word=U64(word),
                offset=offset,
                naming=naming_it,
                functions=len(texts),
                calls=tuple(U64(r.call) for r in naming),
                more=counted(
                    known,
                    [
                        allocating(known, r, foreign)
                        for r in (uncertain if len(functions) <= _FEW else [])
                    ],
                ),
                handed=0 if naming_it else len(functions),
            )
        )
    return tuple(result)

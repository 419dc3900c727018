"""What a group's objects hold where a place in the code is said to write.

Hundreds of places are asked about, and many write alike: each question is answered once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from crashext.analysis.likeness.words import WordMap
from crashext.hosts.base import Bytes
from crashext.kernel.access import Words
from crashext.kernel.origin.stores import Store

ALIKE = 0.95
"""Least share of a group for what all of it is said to hold."""
SMALL = 1024
"""Numbers below may count something."""
_SAMPLE = 256
_UNUSED = np.array([0, *(byte * 0x0101010101010101 for byte in (0x5A, 0xBB, 0xCC))], np.uint64)
"""What is in words that nobody asked for: zeros, or what slub_debug's P and Z fill in."""


@dataclass(frozen=True)
class Group:
    """Some of the objects, and how much of them is used."""

    content: Bytes
    """A row each."""
    inside: Words
    """Words, less the object's own address."""
    used: int
    """Bytes up to the end of the last word that nearly all of them use."""
    full: frozenset[int]
    """Words, by number, that are not 0 in nearly all of them."""
    empty: frozenset[int]
    """Words that are."""
    _shares: dict[tuple[str, int, int, int], float | None] = field(default_factory=dict)
    _alike: dict[tuple[int, int], bool] = field(default_factory=dict)
    _counting: dict[tuple[int, int], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, words: WordMap, addresses: Words) -> Group:
        rows = np.linspace(0, len(addresses) - 1, min(len(addresses), _SAMPLE)).astype(np.intp)
        values, kinds = words.values[rows], words.kinds[rows]
        used = 0
        for i in range(values.shape[1]):
            _, counts = np.unique(kinds[:, i], return_counts=True)
            alike = counts.max() >= ALIKE * len(rows)
            unused = np.isin(values[:, i], _UNUSED)
            if alike and (~unused).mean() >= ALIKE:
                used = 8 * i + 8
        content = np.ascontiguousarray(values).view(np.uint8).reshape(len(rows), -1)
        inside = values - addresses[rows][:, None]
        zero = (values == 0).mean(axis=0)
        full, empty = (
            frozenset(np.flatnonzero(w).tolist()) for w in (zero <= 1 - ALIKE, zero >= ALIKE)
        )
        return cls(content, inside, used, full, empty)

    def share(self, store: Store) -> float | None:
        """Of the objects that hold what is stored; None where the store is beyond them."""
        # A few stores are most places': zeros, and heads of lists.
        key = store.kind, store.offset, store.size, store.value
        if key not in self._shares:
            self._shares[key] = self._share(store)
        return self._shares[key]

    def _share(self, store: Store) -> float | None:
        end = store.offset + store.size
        if end > self.content.shape[1]:
            return None
        if store.kind == "self":
            if store.offset % 8:
                return None
            return float((self.inside[:, store.offset // 8] == np.uint64(store.value)).mean())
        wanted = np.frombuffer(store.value.to_bytes(8, "little")[: store.size], np.uint8)
        return float((self.content[:, store.offset : end] == wanted).all(axis=1).mean())

    def constant(self, store: Store) -> bool:
        """Whether nearly all of them hold the same where it is stored."""
        key = store.offset, store.size
        if key not in self._alike:
            part = self.content[:, store.offset : store.offset + store.size]
            self._alike[key] = bool((part == part[0]).all(axis=1).mean() >= ALIKE)
        return self._alike[key]

    def small(self, store: Store) -> bool:
        """Whether nearly all of them hold a small number where it is stored."""
        key = store.offset, store.size
        if key not in self._counting:
            part = self.content[:, store.offset : store.offset + store.size].astype(np.uint64)
            weights = np.uint64(1) << np.arange(store.size, dtype=np.uint64) * np.uint64(8)
            few = (part * weights).sum(axis=1) < SMALL
            self._counting[key] = bool(few.mean() >= ALIKE)
        return self._counting[key]

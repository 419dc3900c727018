"""Slabs as the pass over the memory map finds them: all of most caches, some of the largest.

A cache may have a hundred million slabs, of which a random part tells as much as all of them do.
What is kept is chosen by a number that an address has for good, so that it does not matter in
which order slabs come; of those that go only the sums stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.access import Words
from crashext.kernel.slab.caches import Caches

MOST = 1 << 18
"""Slabs of a cache that are kept; beyond twice as many the half goes, at random."""
_CACHE, _INUSE, _OBJECTS = 3, 4, 5
_TYPES = (np.uint64, np.uint64, np.uint16, np.uint16, np.uint16, np.uint16)
Columns = tuple[NDArray[Any], ...]
PENDING = 1 << 18
"""Slabs that come in between two looks at how many there are."""
_EVERY = (1 << 64) - 1


@dataclass(frozen=True)
class Crowd:
    """A cache of which only some slabs are kept, and what there is of it."""

    slabs: int
    objects: int
    inuse: int


def likely_crowds(caches: Caches) -> list[int]:
    """Caches of which not all slabs will be kept, by the kernel's counters of slabs."""
    counted = enumerate(cache.counters for cache in caches.all)
    return [i for i, counters in counted if counters is not None and counters.slabs > 2 * MOST]


class Collector:
    """Takes in the columns address, page, pages, cache, inuse, objects."""

    def __init__(self, caches: int, seed: int, most: int | None = None) -> None:
        self._most, self._seed = MOST if most is None else most, np.uint64(seed)
        self._limit = np.full(caches, _EVERY, np.uint64)
        """Slabs whose number is greater are not kept."""
        self._sums = np.zeros((3, caches), np.int64)
        self._kept: list[Columns] = []
        self._pending = 0

    def add(self, columns: tuple[Words, ...]) -> None:
        """Some slabs more."""
        cache = columns[_CACHE].astype(np.intp)
        length = self._sums.shape[1]
        self._sums[0] += np.bincount(cache, minlength=length)
        for row, column in ((1, columns[_OBJECTS]), (2, columns[_INUSE])):
            self._sums[row] += np.bincount(cache, column, length).astype(np.int64)
        self._keep(tuple(c.astype(t) for c, t in zip(columns, _TYPES, strict=True)))
        self._pending += len(cache)
        if self._pending > PENDING:
            self.thin()

    def _keep(self, columns: Columns) -> None:
        cache = columns[_CACHE].astype(np.intp)
        limit = self._limit[cache]
        if (limit != _EVERY).any():
            chosen = self._numbers(columns[0]) <= limit
            columns = tuple(c[chosen] for c in columns)
        self._kept.append(columns)

    def _numbers(self, addresses: NDArray[Any]) -> Words:
        """A number of each address that is like a random one (splitmix64's last step)."""
        x = addresses.astype(np.uint64) ^ self._seed * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ x >> np.uint64(31), np.uint64)

    def thin(self) -> None:
        """Let slabs go of caches that have too many."""
        columns = self.columns()
        self._pending = 0
        counts = np.bincount(columns[_CACHE].astype(np.intp), minlength=len(self._limit))
        crowded = np.flatnonzero(counts > 2 * self._most)
        keep = np.ones(len(columns[0]), np.bool_)
        for cache in crowded.tolist():
            rows = np.flatnonzero(columns[_CACHE] == cache)
            numbers = self._numbers(columns[0][rows])
            self._limit[cache] = np.partition(numbers, self._most)[self._most]
            keep[rows] = numbers <= self._limit[cache]
        if len(crowded):
            columns = tuple(c[keep] for c in columns)
        self._kept = [columns]

    def columns(self) -> Columns:
        """What is kept, in the order of coming."""
        empty = tuple(np.zeros(0, t) for t in _TYPES)
        self._kept = [tuple(np.concatenate(c) for c in zip(empty, *self._kept, strict=True))]
        return self._kept[0]

    def crowds(self) -> dict[int, Crowd]:
        """The caches of which not all slabs are kept."""
        some = np.flatnonzero(self._limit != _EVERY).tolist()
        return {i: Crowd(*(int(n) for n in self._sums[:, i])) for i in some}

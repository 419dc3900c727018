"""Counts per flow: what one place allocates in one size. Bounded in places and in time.

The cache of a kmem_cache_alloc event is not in the event; kmem_cache_free names it since 5.12.
So a flow learns its cache from the frees of what it allocated.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

PERIODS = 32
"""Most periods that a trace is divided into; full, every two become one."""
_FIRST_PERIOD = 1_000_000  # ns
_MOST_FLOWS = 1 << 17
_SITE_BITS, _SIZE_BITS = 20, 37
OTHER = 0


class Flows:
    """(kind, site, size) -> a number, and what is counted for it. Flow 0 is what did not fit."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {-1: OTHER}
        self.kind: list[int] = [0]
        self.site: list[int] = [0]
        self.size: list[int] = [0]
        self.left_out = 0
        self.allocs: NDArray[np.int64] = np.zeros(1, np.int64)
        self.frees: NDArray[np.int64] = np.zeros(1, np.int64)
        self.lost: NDArray[np.int64] = np.zeros(1, np.int64)
        """Allocated again without a free seen."""
        self.allocs_in: NDArray[np.int32] = np.zeros((1, PERIODS), np.int32)
        self.frees_in: NDArray[np.int32] = np.zeros((1, PERIODS), np.int32)
        self.caches: dict[int, Counter[int]] = {}
        """Flow -> names of caches that its objects were freed to."""
        self.freed_to: Counter[int] = Counter()
        """Cache -> frees of objects that were not seen allocated."""
        self.begin: int | None = None
        self.end = 0
        self.period = _FIRST_PERIOD
        """Nanoseconds of each period; the first one starts at `begin`."""

    def __len__(self) -> int:
        return len(self.kind)

    def numbers(self, kind: NDArray[np.int8], site: Ids, size: NDArray[np.int64]) -> Ids:
        """The flow of each allocation."""
        code = (
            (kind.astype(np.int64) << (_SITE_BITS + _SIZE_BITS))
            | (site.astype(np.int64) << _SIZE_BITS)
            | size
        )
        codes, inverse = np.unique(code, return_inverse=True)
        found = np.zeros(len(codes), np.int32)
        for i, one in enumerate(codes.tolist()):
            found[i] = self._number(one)
        missing = len(self.kind) - len(self.allocs)
        if missing:
            self.allocs, self.frees, self.lost = (
                np.concatenate((a, np.zeros(missing, np.int64)))
                for a in (self.allocs, self.frees, self.lost)
            )
            self.allocs_in, self.frees_in = (
                np.concatenate((a, np.zeros((missing, PERIODS), np.int32)))
                for a in (self.allocs_in, self.frees_in)
            )
        return found[inverse]

    def _number(self, code: int) -> int:
        number = self._numbers.get(code)
        if number is None:
            if len(self.kind) >= _MOST_FLOWS:
                self.left_out += 1
                return OTHER
            number = self._numbers[code] = len(self.kind)
            self.kind.append(code >> (_SITE_BITS + _SIZE_BITS))
            self.site.append((code >> _SIZE_BITS) & ((1 << _SITE_BITS) - 1))
            self.size.append(code & ((1 << _SIZE_BITS) - 1))
        return number

    def count(self, allocated: Ids, freed: Ids, lost: Ids) -> None:
        """Count events by flow, each given by its flow."""
        n = len(self)
        self.allocs += np.bincount(allocated, minlength=n)
        self.frees += np.bincount(freed, minlength=n)
        self.lost += np.bincount(lost, minlength=n)

    def count_times(
        self, allocated: Ids, when: NDArray[np.int64], freed: Ids, then: NDArray[np.int64]
    ) -> None:
        """Count events by flow and period; `when` and `then` are their times."""
        for flow, time, counts in (
            (allocated, when, self.allocs_in),
            (freed, then, self.frees_in),
        ):
            period = np.clip((time - (self.begin or 0)) // self.period, 0, PERIODS - 1)
            cells = np.bincount(flow.astype(np.int64) * PERIODS + period, minlength=counts.size)
            counts += cells.reshape(counts.shape).astype(np.int32)

    def see(self, times: NDArray[np.int64]) -> int:
        """Widen the periods until `times` fit; returns how many are earlier than one before."""
        if not len(times):
            return 0
        if self.begin is None:
            self.begin = self.end = int(times[0])
        before = np.concatenate(([self.end], times[:-1]))
        backwards = int((times < before).sum())
        self.end = max(self.end, int(times.max()))
        while self.end - self.begin >= self.period * PERIODS:
            self.period *= 2
            for counts in (self.allocs_in, self.frees_in):
                half = counts.reshape(len(counts), PERIODS // 2, 2).sum(axis=2)
                counts[:, : PERIODS // 2] = half
                counts[:, PERIODS // 2 :] = 0
        return backwards

    def learn(self, flow: Ids, cache: Ids) -> None:
        """Note the caches that objects of flows were freed to."""
        for code, n in _counted((flow.astype(np.int64) << 32) | cache):
            self.caches.setdefault(code >> 32, Counter())[code & 0xFFFFFFFF] += n

    def learn_freed(self, cache: Ids) -> None:
        """Note the caches of frees without an allocation."""
        for number, n in _counted(cache.astype(np.int64)):
            self.freed_to[number] += n

    def cache_of(self, flow: int) -> int:
        """The cache that a flow's objects are of, most often; 0: unknown."""
        known = self.caches.get(flow)
        return min(known, key=lambda c: (-known[c], c)) if known else 0


def _counted(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    distinct, counts = np.unique(values, return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))

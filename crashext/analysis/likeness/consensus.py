"""What a group of objects has in common, word by word, and how the rest varies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Kind, WordMap, count_distinct
from crashext.kernel.access import Words
from crashext.kernel.errnos import MAX_ERRNO
from crashext.kernel.slab.caches import Caches

Integers = Words | NDArray[np.int64]

_NUMBERS = (Kind.ZERO, Kind.SMALL, Kind.INT)
_MAX_NAMED = 3
_COUNTER_LEAST = 8


@dataclass(frozen=True)
class Column:
    """One word offset over a group."""

    agreement: float
    constant: float
    varies: str


def consensus(
    words: WordMap,
    members: NDArray[np.intp],
    exemplar: int,
    population: int,
    caches: Caches | None,
) -> list[Column]:
    """Compare every word of the group's sampled members with the exemplar's.

    `population` is how many objects the whole group is thought to have.
    """
    return [
        _column(
            words.values[members, i],
            words.kinds[members, i],
            words.details[members, i],
            Kind(int(words.kinds[exemplar, i])),
            int(words.details[exemplar, i]),
            int(words.values[exemplar, i]),
            population,
            caches,
        )
        for i in range(words.values.shape[1])
    ]


def _column(
    values: Words,
    kinds: NDArray[np.uint8],
    details: Words,
    kind: Kind,
    detail: int,
    value: int,
    population: int,
    caches: Caches | None,
) -> Column:
    constant = float((values == value).mean())
    if kind in _NUMBERS:
        same = np.isin(kinds, np.array(_NUMBERS, np.uint8))
    elif kind is Kind.SLAB:
        same = (kinds == kind) & (details >> np.uint64(32) == detail >> 32)
    else:
        same = (kinds == kind) & (details == detail)
    agreement = float(same.mean())
    if constant == 1.0:
        return Column(agreement, constant, "")
    return Column(agreement, constant, _variation(values, kinds, details, kind, population, caches))


def _variation(
    values: Words,
    kinds: NDArray[np.uint8],
    details: Words,
    kind: Kind,
    population: int,
    caches: Caches | None,
) -> str:
    different = _different(values)
    of_kind = kinds == kind
    if kind is Kind.SLAB and caches is not None:
        targets, counts = np.unique(details[of_kind] >> np.uint64(32), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_MAX_NAMED]
        names = ", ".join(caches.all[int(targets[i])].name for i in order)
        return f"{different}, into {names}" + (", ..." if len(targets) > _MAX_NAMED else "")
    if kind in _NUMBERS:
        number = np.isin(kinds, np.array(_NUMBERS, np.uint8))
        if (values[number] == values[number][0]).all():
            return f"else {_labels(kinds[~number])}"
        return _numbers(values[number], population)
    if kind in (Kind.PAIR, Kind.OPAQUE):
        low = values & np.uint64(0xFFFFFFFF)
        high = values >> np.uint64(32)
        if (high == high[0]).all():
            return "low half " + _numbers(_signed(low), population)
        if (low == low[0]).all():
            return "high half " + _numbers(_signed(high), population)
    return different


def _different(values: Integers) -> str:
    n = count_distinct(values)
    return "each different" if n == len(values) else f"{n:,} values"


def _labels(kinds: NDArray[np.uint8]) -> str:
    """The most common kinds, named."""
    found, counts = np.unique(kinds, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_NAMED]
    return ", ".join(Kind(int(found[i])).label for i in order)


def _signed(halves: Words) -> NDArray[np.int64]:
    """32-bit numbers, those that may be a negated error as the negative numbers they are."""
    numbers = halves.astype(np.int64)
    return np.where(numbers >= (1 << 32) - MAX_ERRNO, numbers - (1 << 32), numbers)


def _numbers(numbers: Integers, population: int) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    # A counter: hardly a value twice, and not much wider than the objects it numbers.
    distinct = count_distinct(numbers) >= 0.95 * len(numbers)
    if distinct and len(numbers) >= _COUNTER_LEAST and high - low <= 4 * population:
        return f"a counter: {_different(numbers)}, {low:,} to {high:,}"
    return f"{_different(numbers)}, {low:,} to {high:,}"

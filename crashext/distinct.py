"""Sets of numbers as sorted arrays, by sorting alone.

numpy's own set routines import numpy.ma at the first call, a twelfth of a second, to ask whether
an array is masked; ours never are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

_FEW = 32  # keys that are looked for one by one: sorting takes as much memory again


def distinct(values: NDArray[T]) -> NDArray[T]:
    """The values, each once, ascending: `np.unique`."""
    ordered = np.sort(values, axis=None)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def union(one: NDArray[T], other: NDArray[T]) -> NDArray[T]:
    """The values of either: `np.union1d`."""
    return distinct(np.concatenate((one, other), axis=None))


def without(values: NDArray[T], taken: NDArray[Any]) -> NDArray[T]:
    """The values, each once, that are not among `taken`: `np.setdiff1d`."""
    left = distinct(values)
    return left[~among(left, taken)]


def among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are among the `known` ones: `np.isin`, for many of both of one kind."""
    if not len(known):
        return np.zeros(values.shape, np.bool_)
    ordered = np.sort(known, axis=None)
    at = np.searchsorted(ordered, values)
    at[at == len(ordered)] = 0
    return np.asarray(ordered[at] == values)


def grouped(keys: NDArray[Any], *columns: NDArray[Any]) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    """Each key, ascending, with its part of each column, in order. With one key no copy is made."""
    known = distinct(keys)
    if len(known) <= _FEW:
        for key in known.tolist():
            which = keys == key
            yield key, [c if len(known) == 1 else c[which] for c in columns]
        return
    order = np.argsort(keys, kind="stable")
    ends = np.append(np.searchsorted(keys[order], known), len(keys)).tolist()
    for i, key in enumerate(known.tolist()):
        yield key, [c[order[ends[i] : ends[i + 1]]] for c in columns]

"""One value for each page frame of a machine of any size.

Most of a large machine is alike for miles: user memory, free memory, nothing. So values are kept
in rows of some hundred page frames, and rows that have one value all over are kept once. A small
machine has a plain array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct

T = TypeVar("T", bound=np.generic)
S = TypeVar("S", bound=np.generic)
Frames64 = NDArray[np.int64]

DENSE = 1 << 22  # page frames: 16 GiB
_WIDE = 1 << 29
_SHIFT, _WIDE_SHIFT = 9, 12  # rows of 512 page frames; of 4,096 beyond 2 TiB
_PIECE = 1 << 18


class ByFrame(Generic[T]):
    """Values of page frames 0 to `len() - 1`."""

    def __init__(
        self, length: int, number: NDArray[np.int32] | None, rows: NDArray[T], shared: Any = None
    ) -> None:
        """`rows[number[i]]` are the values of the i-th row; without `number`, rows[0] are all.

        `shared` says which rows may be several stretches' (None: all): they are copied on writing.
        """
        self._length, self._number, self._rows = length, number, rows
        self._shared = np.ones(len(rows), np.bool_) if shared is None else shared
        self._used = len(rows)
        self._shift = rows.shape[1].bit_length() - 1
        self._alike: dict[Any, int] = {}

    @classmethod
    def filled(cls, length: int, value: Any) -> ByFrame[Any]:
        """The same value, of a numpy type, everywhere."""
        if length <= DENSE:
            return cls(length, None, np.full((1, length), value))
        shift = _SHIFT if length <= _WIDE else _WIDE_SHIFT
        number = np.zeros(-(-length >> shift), np.int32)
        return cls(length, number, np.full((1, 1 << shift), value))

    @staticmethod
    def of_runs(length: int, runs: Frames64) -> ByFrame[np.bool_]:
        """True in runs [first, end), ascending: int64[n, 2]."""
        result: ByFrame[np.bool_] = ByFrame.filled(length, np.bool_(False))
        first, end = np.clip(runs, 0, length).T
        for begin in range(0, len(first), _PIECE):
            some = slice(begin, begin + _PIECE)
            result._mark(first[some], end[some])
        return result

    def _mark(self: ByFrame[np.bool_], first: Frames64, end: Frames64) -> None:
        if self._number is None:
            edges = np.zeros(self._length + 1, np.int32)
            np.add.at(edges, first, 1)
            np.add.at(edges, end, -1)
            self._rows[0] |= np.cumsum(edges[:-1]) > 0
            return
        width = 1 << self._shift
        low, high = -(-first // width), end // width
        whole = low < high
        edges = np.zeros(len(self._number) + 1, np.int32)
        np.add.at(edges, low[whole], 1)
        np.add.at(edges, high[whole], -1)
        self._number[np.cumsum(edges[:-1]) > 0] = self._one(np.bool_(True))
        head = np.where(whole, low * width, end)
        tail = np.where(whole, high * width, end)
        self.set(np.concatenate([spread(first, head), spread(tail, end)]), np.bool_(True))

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        number = 0 if self._number is None else self._number.nbytes
        return int(self._rows.nbytes + number)

    @overload
    def __getitem__(self, frames: int) -> T: ...

    @overload
    def __getitem__(self, frames: NDArray[Any] | slice) -> NDArray[T]: ...

    def __getitem__(self, frames: int | NDArray[Any] | slice) -> Any:
        """Values of page frames that there are."""
        if isinstance(frames, slice):
            first, end, _ = frames.indices(self._length)
            return self.part(first, end)
        if self._number is None:
            return self._rows[0][frames]
        return self._rows[self._number[frames >> self._shift], frames & ((1 << self._shift) - 1)]

    def part(self, first: int, end: int) -> NDArray[T]:
        """Values of page frames [first, end), as far as there are."""
        if self._number is None:
            dense: NDArray[T] = self._rows[0][first:end]
            return dense
        first, end = min(first, self._length), min(end, self._length)
        low, high = first >> self._shift, -(-end >> self._shift)
        rows = self._rows[self._number[low:high]].reshape(-1)
        begin = first - (low << self._shift)
        found: NDArray[T] = rows[begin : begin + end - first]
        return found

    def set(self, frames: Frames64, values: NDArray[T] | T) -> None:
        """Change values."""
        if self._number is None:
            self._rows[0][frames] = values
            return
        row = frames >> self._shift
        fresh = distinct(row[self._shared[self._number[row]]])
        if len(fresh):
            at = self._room(len(fresh))
            self._rows[at : at + len(fresh)] = self._rows[self._number[fresh]]
            self._number[fresh] = np.arange(at, at + len(fresh), dtype=np.int32)
        self._rows[self._number[row], frames & ((1 << self._shift) - 1)] = values

    def put(self, first: int, values: NDArray[T]) -> None:
        """Change the values of page frames from `first` on; where they are alike, cheaply."""
        if self._number is None:
            self._rows[0][first : first + len(values)] = values
            return
        width = 1 << self._shift
        if first % width or len(values) % width:
            self.set(np.arange(first, first + len(values)), values)
            return
        rows = values.reshape(-1, width)
        same = (rows == rows[:, :1]).all(axis=1)
        at = first >> self._shift
        number = self._number[at : at + len(rows)]
        for value in distinct(rows[same, 0]):
            number[same & (rows[:, 0] == value)] = self._one(value)
        rest = np.flatnonzero(~same)
        if len(rest):
            begin = self._room(len(rest))
            self._rows[begin : begin + len(rest)] = rows[rest]
            number[rest] = np.arange(begin, begin + len(rest), dtype=np.int32)

    def fill(self, first: int, count: int, value: T) -> None:
        """Change the values of `count` page frames from `first` on to this one."""
        width = 1 << self._shift
        if self._number is None or first % width or count % width:
            self.put(first, np.full(count, value, self._rows.dtype))
            return
        self._number[first >> self._shift : first + count >> self._shift] = self._one(value)

    def _one(self, value: T) -> int:
        """The row that has this value all over."""
        key = value.item()
        if key not in self._alike:
            at = self._room(1)
            self._rows[at], self._shared[at], self._alike[key] = value, True, at
        return self._alike[key]

    def _room(self, count: int) -> int:
        """Number of the first of so many rows that are nobody's yet."""
        at, self._used = self._used, self._used + count
        if self._used > len(self._rows):
            more = max(self._used, len(self._rows) * 5 // 4 + 16) - len(self._rows)
            rows = np.zeros((len(self._rows) + more, self._rows.shape[1]), self._rows.dtype)
            rows[:at] = self._rows[:at]
            self._rows = rows
            self._shared = np.concatenate([self._shared, np.zeros(more, np.bool_)])
        return at

    @property
    def tables(self) -> tuple[NDArray[np.int32] | None, NDArray[T], int]:
        """Number of each stretch's row (None: there is one row, of them all), rows, and how many
        bits of a page frame's number are inside a stretch."""
        return self._number, self._rows[: self._used], 0 if self._number is None else self._shift

    def copy(self) -> ByFrame[T]:
        """One that can be changed without changing this."""
        number = None if self._number is None else self._number.copy()
        return ByFrame(self._length, number, self._rows[: self._used].copy())

    def map(self, rule: Callable[[NDArray[T]], NDArray[S]]) -> ByFrame[S]:
        """Other values by a rule that looks at each value alone."""
        number = None if self._number is None else self._number.copy()
        return ByFrame(self._length, number, rule(self._rows[: self._used]))

    def among(self, *values: int) -> ByFrame[np.bool_]:
        """Which page frames have one of these values."""
        wanted = np.array(values).astype(self._rows.dtype)
        return self.map(lambda rows: np.isin(rows, wanted))

    def join(
        self, other: ByFrame[S], rule: Callable[[NDArray[T], NDArray[S]], NDArray[Any]]
    ) -> ByFrame[Any]:
        """Values by a rule that looks at one of each."""
        if self._number is None or other._number is None:
            return ByFrame(self._length, None, rule(self._rows, other._rows))
        # In pieces: a machine of terabytes has millions of rows.
        first, second, width = self._number, other._number, len(other._rows)
        pieces = [slice(at, at + _PIECE) for at in range(0, len(first), _PIECE)]

        def pairs(some: slice) -> Frames64:
            return first[some].astype(np.int64) * width + second[some]

        known = distinct(np.concatenate([distinct(pairs(p)) for p in pieces]))
        number = np.empty(len(first), np.int32)
        for piece in pieces:
            number[piece] = np.searchsorted(known, pairs(piece))
        mine, theirs = np.divmod(known, width)
        return ByFrame(self._length, number, rule(self._rows[mine], other._rows[theirs]))

    def __and__(self: ByFrame[np.bool_], other: ByFrame[np.bool_]) -> ByFrame[np.bool_]:
        return self.join(other, np.logical_and)

    def __invert__(self: ByFrame[np.bool_]) -> ByFrame[np.bool_]:
        return self.map(np.logical_not)

    def tally(self, values: int) -> NDArray[np.int64]:
        """How many page frames have each of the values 0 to `values` - 1."""
        if self._number is None:
            return np.bincount(self._rows[0], minlength=values)
        times = np.bincount(self._number, minlength=self._used)
        found = np.array(
            [(self._rows[: self._used] == v).sum(axis=1) @ times for v in range(values)]
        )
        # The last row goes on where there are no page frames.
        beyond = self._rows[self._number[-1]][
            self._length - ((len(self._number) - 1) << self._shift) :
        ]
        return np.asarray(found - np.bincount(beyond, minlength=values)[:values], np.int64)

    def count(self: ByFrame[np.bool_]) -> int:
        """Page frames where it is true."""
        if self._number is None:
            return int(np.count_nonzero(self._rows))
        return int(self.tally(2)[1])

    def runs(self: ByFrame[np.bool_]) -> Frames64:
        """int64[n, 2]: [first, end) of neighbours where it is true, ascending."""
        rows = self._rows[: self._used].view(np.int8)
        if self._number is None:
            edges = np.flatnonzero(np.diff(rows[0], prepend=np.int8(0), append=np.int8(0)))
            return edges.reshape(-1, 2).astype(np.int64)
        row, column = np.nonzero(np.diff(rows, axis=1, prepend=np.int8(0), append=np.int8(0)))
        starts, ends = column[::2], column[1::2]
        each = np.bincount(row[::2], minlength=len(rows))
        begin = np.cumsum(each) - each
        count = each[self._number]
        which = np.repeat(np.arange(len(self._number)), count)
        at = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        at += begin[self._number[which]]
        first, end = (which << self._shift) + starts[at], (which << self._shift) + ends[at]
        end = np.minimum(end, self._length)
        fresh = np.ones(len(first), np.bool_)
        fresh[1:] = first[1:] != end[:-1]
        last = np.roll(fresh, -1)
        found = np.stack([first[fresh], end[last]], axis=1)
        return found[found[:, 0] < self._length]

    def frames(self: ByFrame[np.bool_]) -> Frames64:
        """Page frames where it is true, ascending."""
        return spread(*self.runs().T)


def merged(runs: Frames64) -> Frames64:
    """Runs [first, end) in any order, those that touch in one: int64[n, 2] -> int64[m, 2]."""
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    end = np.maximum.accumulate(runs[:, 1])
    fresh = np.append(True, runs[1:, 0] > end[:-1])
    return np.stack([runs[fresh, 0], end[np.append(fresh[1:], True)]], axis=1)


def spread(first: Frames64, end: Frames64) -> Frames64:
    """All numbers of ranges [first, end): int64[n], int64[n] -> int64[sum]."""
    count = np.maximum(end - first, 0)
    before = np.cumsum(count) - count
    numbers: Frames64 = np.arange(int(count.sum()), dtype=np.int64)
    numbers += np.repeat(first - before, count)
    return numbers

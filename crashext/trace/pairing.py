"""Which allocation a free belongs to. Knows keys and order, not what they are keys of.

One table holds what is outstanding; events come in pieces, in the order of the trace. Within a
piece events are sorted by key, in order, so that each one's predecessor of the same key stands
before it: a handful of array operations instead of a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Ids = NDArray[np.int32]
Times = NDArray[np.int64]

NOT_PAIRED = -1
_SMALL = 1 << 16


@dataclass(frozen=True)
class Matched:
    """What became of a piece's events."""

    flow: Ids
    """For each event: the flow of the allocation that this free ends; `NOT_PAIRED` otherwise."""
    unknown: NDArray[np.bool_]
    """Frees of what was not seen allocated."""
    again: NDArray[np.bool_]
    """Those of them whose key was freed before, with no allocation seen in between."""
    lost: Ids
    """Flows of allocations whose key was allocated again, without a free in between."""


@dataclass(frozen=True)
class Entries:
    """Outstanding allocations, sorted by key: 28 bytes each."""

    keys: Keys
    flow: Ids
    stack: Ids
    task: Ids
    time: Times

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, which: NDArray[np.bool_]) -> Entries:
        return Entries(*(column[which] for column in self._columns()))

    def merged(self, other: Entries) -> Entries:
        """Both together; no key is in both."""
        places = np.searchsorted(self.keys, other.keys)
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Entries(*(np.insert(mine, places, theirs) for mine, theirs in pairs))

    def find(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where each of `keys` is, and whether it is there at all."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return at, self.keys[at] == keys

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.keys, self.flow, self.stack, self.task, self.time


_NOTHING = Entries(
    np.zeros(0, np.uint64),
    *(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32)),
    np.zeros(0, np.int64),
)


class Table:
    """What is outstanding: a large part that only loses entries, and a small one of new entries.

    The small one is merged into the large one when it has grown to a part of its size: so many
    outstanding allocations cost no more per event than few.
    """

    def __init__(self) -> None:
        self._old = _NOTHING
        self._alive = np.ones(0, bool)
        self._new = _NOTHING

    def __len__(self) -> int:
        return int(np.count_nonzero(self._alive)) + len(self._new)

    def entries(self) -> Entries:
        """Everything that is outstanding now."""
        self._old = self._old.only(self._alive).merged(self._new)
        self._alive = np.ones(len(self._old), bool)
        self._new = _NOTHING
        return self._old

    def advance(
        self,
        keys: Keys,
        allocates: NDArray[np.bool_],
        flow: Ids,
        stack: Ids,
        task: Ids,
        time: Times,
    ) -> Matched:
        """Take one piece of events; `flow`, `stack` and `task` matter for allocations only."""
        matched = Matched(
            flow=np.full(len(keys), NOT_PAIRED, np.int32),
            unknown=np.zeros(len(keys), bool),
            again=np.zeros(len(keys), bool),
            lost=np.zeros(0, np.int32),
        )
        if not len(keys):
            return matched
        order = np.argsort(keys, kind="stable")
        key = keys[order]
        alloc = allocates[order]
        first = np.concatenate(([True], key[1:] != key[:-1]))
        last = np.concatenate((first[1:], [True]))

        # What each event finds: its predecessor in this piece, or what is in the table.
        live = np.concatenate(([False], alloc[:-1]))
        owner = np.concatenate((np.zeros(1, np.int32), flow[order][:-1]))
        live[first], owner[first] = self._pop(key[first])

        matched.flow[order] = np.where(~alloc & live, owner, NOT_PAIRED)
        matched.unknown[order] = ~alloc & ~live
        matched.again[order] = ~alloc & ~live & ~first
        lost = owner[alloc & live]

        left = order[last & alloc]
        new = Entries(keys[left], flow[left], stack[left], task[left], time[left])
        self._new = self._new.merged(new)
        if len(self._new) > max(_SMALL, len(self._old) // 4):
            self.entries()
        return Matched(matched.flow, matched.unknown, matched.again, lost)

    def _pop(self, keys: Keys) -> tuple[NDArray[np.bool_], Ids]:
        """Take those of `keys` that are outstanding out; which they were, and their flows."""
        at, known = self._new.find(keys)
        flow = np.zeros(len(keys), np.int32)
        flow[known] = self._new.flow[at[known]]
        keep = np.ones(len(self._new), bool)
        keep[at[known]] = False
        self._new = self._new.only(keep)

        at, inside = self._old.find(keys)
        inside[inside] = self._alive[at[inside]]
        flow[inside] = self._old.flow[at[inside]]
        self._alive[at[inside]] = False
        return known | inside, flow

"""Which allocation a free belongs to. Knows keys and order, not what they are keys of.

One table holds what is outstanding; events come in pieces, in the order of the trace. Within a
piece events are sorted by key, in order, so that each one's predecessor of the same key stands
before it: a handful of array operations instead of a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Ids = NDArray[np.int32]
Times = NDArray[np.int64]

NOT_PAIRED = -1


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


class Table:
    """What is outstanding, sorted by key. Memory: 28 bytes an entry, twice that while it grows."""

    def __init__(self) -> None:
        self.keys: Keys = np.zeros(0, np.uint64)
        self.flow: Ids = np.zeros(0, np.int32)
        self.stack: Ids = np.zeros(0, np.int32)
        self.task: Ids = np.zeros(0, np.int32)
        self.time: Times = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.keys)

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
        at = np.searchsorted(self.keys, key[first])
        inside = np.minimum(at, max(0, len(self.keys) - 1))
        known = self.keys[inside] == key[first] if len(self.keys) else np.zeros(len(at), bool)
        live[first] = known
        owner[first] = np.where(known, self.flow[inside], 0) if len(self.keys) else 0

        matched.flow[order] = np.where(~alloc & live, owner, NOT_PAIRED)
        matched.unknown[order] = ~alloc & ~live
        matched.again[order] = ~alloc & ~live & ~first
        lost = owner[alloc & live]

        keep = np.ones(len(self.keys), bool)
        keep[inside[known]] = False
        new = order[last & alloc]
        self._replace(keep, keys[new], flow[new], stack[new], task[new], time[new])
        return Matched(matched.flow, matched.unknown, matched.again, lost)

    def _replace(
        self, keep: NDArray[np.bool_], keys: Keys, flow: Ids, stack: Ids, task: Ids, time: Times
    ) -> None:
        """Drop what is not in `keep` and merge the new entries, sorted by key, in."""
        kept = self.keys[keep]
        places = np.searchsorted(kept, keys)
        self.keys = np.insert(kept, places, keys)
        self.flow = np.insert(self.flow[keep], places, flow)
        self.stack = np.insert(self.stack[keep], places, stack)
        self.task = np.insert(self.task[keep], places, task)
        self.time = np.insert(self.time[keep], places, time)

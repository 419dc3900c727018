"""Leaked structures: which unreachable object is the head, and what merely hangs below it.

An object that nothing points at is a head. Of objects that point at each other in a ring, the
largest is: a leaked task_struct and its signal_struct point at each other, and the task is the
leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks, mark
from crashext.analysis.reach.reachability import Reach
from crashext.distinct import distinct, without
from crashext.kernel.slab.slots import Slots

_MOST_RINGED = 2_000_000  # objects sorted into rings one by one; more are heads each
_PIECE = 1 << 20


@dataclass(frozen=True)
class Structures:
    """Unreachable objects, and under which head each of them is."""

    slots: Slots
    """int64[n], ascending."""
    head: Slots
    """int64[n]: the head of each; its own slot for a head."""
    unsorted: int
    """Objects on rings that were too many to be sorted: each counts as a head."""

    @property
    def heads(self) -> Slots:
        """The heads, ascending."""
        heads: Slots = self.slots[self.head == self.slots]
        return heads


def structures(reach: Reach) -> Structures:
    """Sort all unreachable objects under their heads."""
    lost = reach.unreachable()
    source, target = _lost_edges(reach)
    head = lost.copy()
    if not len(source):
        return Structures(lost, head, 0)
    # From here on, objects are numbered by their place in `lost`.
    source = np.searchsorted(lost, source).astype(np.int32)
    target = np.searchsorted(lost, target).astype(np.int32)
    below = np.zeros(len(lost), np.bool_)
    below[target] = True
    marks = Marks(len(lost))
    tops = distinct(source[~below[source]])
    mark(marks, source, target, tops)
    left = without(distinct(np.concatenate([source, target])), np.flatnonzero(marks.reached))
    unsorted = 0
    if len(left) > _MOST_RINGED:
        unsorted = len(left)
    elif len(left):
        sizes = np.array([c.slot_size for c in reach.view.caches.all])
        size = sizes[reach.table.caches(lost[left])]
        mark(marks, source, target, _ring_heads(source, target, left, size))
    owner = _owners(marks)
    return Structures(lost, lost[owner], unsorted)


def _lost_edges(reach: Reach) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Edges between unreachable objects. Sources stay ascending."""
    references, reached = reach.references, reach.marks.reached
    objects = reach.table.count  # areas and blocks have no place among them yet
    sources, targets = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for begin in range(0, len(references.source), _PIECE):
        source = references.source[begin : begin + _PIECE]
        target = references.target[begin : begin + _PIECE]
        both = ~reached[source] & ~reached[target] & (source < objects) & (target < objects)
        sources.append(source[both])
        targets.append(target[both])
        reach.marks.store.release()
    return np.concatenate(sources), np.concatenate(targets)


def _owners(marks: Marks) -> NDArray[np.int32]:
    """The start of each object's path; itself where none leads to it. Paths halve each round."""
    owner = np.where(marks.via >= 0, marks.via, np.arange(len(marks.via), dtype=np.int32))
    while True:
        further = owner[owner]
        if (further == owner).all():
            return owner
        owner = further


def _ring_heads(
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    left: NDArray[np.int64],
    size: NDArray[np.int64],
) -> NDArray[np.int32]:
    """The largest object of each ring that no other ring leads to (Tarjan's components)."""
    inside = np.isin(source, left) & np.isin(target, left)
    sources = np.searchsorted(left, source[inside])
    targets = np.searchsorted(left, target[inside])
    first = np.searchsorted(sources, np.arange(len(left) + 1)).tolist()
    component = _components(first, targets.tolist())
    number = np.array(component)
    led_to = np.zeros(number.max() + 1, np.bool_)
    across = number[sources] != number[targets]
    led_to[number[targets[across]]] = True
    order = np.lexsort((np.arange(len(left)), -size, number))
    heads = order[np.diff(number[order], prepend=-1) != 0]
    chosen: NDArray[np.int32] = left[heads[~led_to[number[heads]]]].astype(np.int32)
    return chosen


def _components(first: list[int], targets: list[int]) -> list[int]:
    """Strongly connected components by Tarjan's algorithm, without recursion."""
    count = len(first) - 1
    component, index, low = [-1] * count, [-1] * count, [0] * count
    stack: list[int] = []
    clock = found = 0
    for root in range(count):
        if index[root] >= 0:
            continue
        work = [(root, first[root])]
        index[root] = low[root] = clock
        clock += 1
        stack.append(root)
        while work:
            node, at = work.pop()
            descended = False
            while at < first[node + 1]:
                to = targets[at]
                at += 1
                if index[to] < 0:
                    work.append((node, at))
                    index[to] = low[to] = clock
                    clock += 1
                    stack.append(to)
                    work.append((to, first[to]))
                    descended = True
                    break
                if component[to] < 0:
                    low[node] = min(low[node], index[to])
            if descended:
                continue
            if low[node] == index[node]:
                while True:
                    member = stack.pop()
                    component[member] = found
                    if member == node:
                        break
                found += 1
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[node])
    return component

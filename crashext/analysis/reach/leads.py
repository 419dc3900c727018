"""Which words of memory lead to nodes, and to which: the loop that every word goes through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.leftovers import left_over
from crashext.analysis.reach.nodes import Nodes, Nodes32
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.slab.objects import State


class Leads:
    """Asks of words what they lead to."""

    def __init__(self, nodes: Nodes, task: int) -> None:
        """`task`: index of the tasks' cache; -1: there is none."""
        self._nodes, self._table = nodes, nodes.table
        space = nodes.view.space
        # All that nodes can be pointed at by lies in these, wherever the kernel image is.
        ranges = (space.direct, space.vmalloc, space.vmemmap)
        lowest = min(r.start for r in ranges)
        self._direct = np.uint64(space.direct.start)
        self._lowest, self._span = np.uint64(lowest), np.uint64(max(r.end for r in ranges) - lowest)
        self._vmemmap, self._code = space.vmemmap, space.code
        self._task = task

    def of(self, offset: int, words: Words) -> tuple[NDArray[np.intp], Nodes32, NDArray[np.intp]]:
        """Of words that begin at direct-map `offset`: indices of those that lead to nodes, these,
        and which of them do by a struct page."""
        at, target = self._leading(offset, words)
        of_page = np.flatnonzero(target >= self._nodes.first_block)
        return at, target, of_page[self._vmemmap.holds(words[at[of_page]])]

    def _leading(self, offset: int, words: Words) -> tuple[NDArray[np.intp], Nodes32]:
        """Indices of words that lead to nodes, and these."""
        nodes, table = self._nodes, self._table
        at = np.flatnonzero(words - self._lowest < self._span)
        gone = left_over(words, at, self._direct + np.uint64(offset), self._code)
        if gone.any():
            at = at[np.flatnonzero(~gone)]
        # Objects in a row often hold one pointer: what it leads to is looked up once.
        values = words[at]
        begins = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
        once = values[begins]
        found = nodes.pointed_at(once)
        good = found >= 0
        in_object = np.flatnonzero(good & (found < nodes.first_area))
        good[in_object] = table.state[found[in_object]] == State.ALLOCATED
        self._without_flags(good, once, found)
        if not good.any():
            return at[:0], np.zeros(0, np.int32)
        which = np.repeat(np.arange(len(once)), np.diff(begins, append=len(values)))
        led = np.flatnonzero(good[which])
        return at[led], found.astype(np.int32)[which[led]]

    def _without_flags(self, good: Mask, values: Words, found: NDArray[np.int64]) -> None:
        """A semaphore remembers who read last, with flags in the low bits: it holds no task.

        RWSEM_READER_OWNED, kernel/locking/rwsem.c (4.x to 6.12): "may contain stale pointer".
        """
        at = np.flatnonzero(good & (values & np.uint64(7) != 0) & (found < self._nodes.first_area))
        if not len(at):
            return
        at = at[self._table.caches(found[at]) == self._task]
        start = self._table.addresses(found[at])
        good[at[values[at] - start < np.uint64(8)]] = False

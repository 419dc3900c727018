"""Slabs of crowds that are in use, although nobody drew them: memory that was read points there.

Of a cache with very many slabs some are drawn. What the kernel uses of the others is found as the
kernel finds it: by pointers, from whatever was read, on through the objects that they lead to.
These few slabs are read like those that were drawn. So where that comes to an end, nothing that is
in use was passed over; where so much of a crowd is in use that it does not, somebody else must
look (`apart.search_unread`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks
from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.scan import KERNEL_USES
from crashext.analysis.reach.sources import BOOKKEEPING
from crashext.distinct import among, distinct
from crashext.growing import Growing
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex, joined, slabs_at

_MOST_WORDS = 1 << 20
"""That lead into unread slabs, of which each takes 16 bytes."""
_MOST_SLABS = 1 << 14
_PIECE = 1 << 14
_ROUNDS = 1 << 8
"""Objects that are followed in a row."""

Pointing = tuple[Words, Words]
"""Where words are, as direct-map offsets, and what they say."""


class UnreadLeads:
    """The scanner for words that lead into slabs of crowds that are not in the table."""

    def __init__(self, graph: Nodes, frames: Frames) -> None:
        self.graph = graph
        space = graph.view.space
        self._direct, self._shift = np.uint64(space.direct.start), np.uint64(space.page_shift)
        self._apart: ByFrame[np.bool_] = frames.use.among(FrameUse.APART)
        read = graph.table.row_of_page.map(lambda row: row >= 0).frames()
        self._apart.set(read[read < len(self._apart)], np.bool_(False))
        self._end = np.uint64(len(self._apart) << space.page_shift)
        self._speaks = frames.use.among(*KERNEL_USES)
        self._where, self._words = Growing(np.uint64), Growing(np.uint64)
        self.too_many = False

    def look(self, offset: int, words: Words) -> Pointing:
        """Words that lead there, of memory from direct-map `offset` on."""
        at = np.flatnonzero(words - self._direct < self._end)
        at = at[self.leads(words[at])]
        return np.uint64(offset) + np.uint64(8) * at.astype(np.uint64), words[at]

    def leads(self, words: Words) -> NDArray[np.bool_]:
        """Which words, of any value, lead into unread slabs."""
        inside = words - self._direct < self._end
        inside[inside] = self._apart[
            ((words[inside] - self._direct) >> self._shift).astype(np.intp)
        ]
        return inside

    def take(self, found: Pointing) -> None:
        """Keep it, as long as it is not too much."""
        self.too_many |= len(self._where) + len(found[0]) > _MOST_WORDS
        if not self.too_many:
            self._where.add(found[0])
            self._words.add(found[1])

    def in_use(self, marks: Marks) -> Words:
        """What words say that lead there, without those of free and of unreachable objects."""
        table, result = self.graph.table, [np.zeros(0, np.uint64)]
        where, words = self._where.array(), self._words.array()
        ignored = [i for i, c in enumerate(self.graph.view.caches.all) if c.name in BOOKKEEPING]
        for begin in range(0, len(where), _PIECE):
            some = where[begin : begin + _PIECE]
            # Pages that nobody wants are among what was read, where that was cheaper.
            slot, _ = table.locate(some)
            alive = (slot < 0) & self._speaks[(some >> self._shift).astype(np.intp)]
            inside = np.flatnonzero(slot >= 0)
            at = slot[inside]
            state = table.state[at]
            reached = (state == State.ALLOCATED) & marks.reached[at]
            unheard = np.isin(table.caches(at), np.array(ignored, np.uint16))
            alive[inside] = (reached | (state == State.UNKNOWN)) & ~unheard
            result.append(distinct(words[begin : begin + _PIECE][alive]))
        return distinct(np.concatenate(result))


def unread_in_use(
    leads: UnreadLeads, marks: Marks, known: SlabIndex, room: int
) -> SlabIndex | None:
    """Unread slabs of which something is in use, with those that are `known` already.

    None where they have more than `room` slots, or it takes too long.
    """
    if leads.too_many:
        return None
    found, words = known, leads.in_use(marks)
    seen = np.zeros(0, np.uint64)
    for _ in range(_ROUNDS):
        if not len(words):
            return found
        objects, fresh = _objects(leads.graph, words)
        found = joined(found, fresh)
        objects = objects[~among(objects[:, 0], seen)]
        seen = distinct(np.concatenate([seen, objects[:, 0]]))
        if len(found.address) > _MOST_SLABS or int(found.objects.sum(dtype=np.int64)) > room:
            return None
        words = _words(leads, objects)
    return None


def _objects(graph: Nodes, words: Words) -> tuple[NDArray[np.uint64], SlabIndex]:
    """Objects that words lead into, once each: uint64[n, 2] of address and cache; their slabs."""
    view = graph.view
    led = view.pointers.resolve(words)
    names = [c.name in BOOKKEEPING for c in view.caches.all]
    kept = led.known & ~np.array(names)[led.cache]
    start, first = np.unique((words - led.offset)[kept], return_index=True)
    pairs = np.stack([start, led.cache[kept][first].astype(np.uint64)], axis=1)
    return pairs, slabs_at(view.host, view.memory, view.caches, distinct(led.base[kept]))


def _words(leads: UnreadLeads, objects: NDArray[np.uint64]) -> Words:
    """Words of objects that lead into unread slabs."""
    view, result = leads.graph.view, [np.zeros(0, np.uint64)]
    for number in distinct(objects[:, 1]).tolist():
        some = objects[objects[:, 1] == number, 0]
        size = view.caches.all[number].object_size & ~7
        for begin in range(0, len(some), _PIECE):
            data, ok = view.host.read_many(some[begin : begin + _PIECE], size)
            words = np.ascontiguousarray(data[ok]).view("<u8").reshape(-1)
            result.append(distinct(words[leads.leads(words)]))
    return distinct(np.concatenate(result))

"""What slabs that were not read may hold.

Of a cache with very many slabs some are read, drawn at random. Where their objects hold something
that nobody else is seen to hold, those that were not read may do the same: what they may hold is
not called unreachable. That leaves what so few of them hold that none was drawn. Where such a cache
is in use, all its slabs are searched for pointers to whatever would be called unreachable; of one
that is unreachable itself, what it holds is as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks
from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.references import References, roots_in
from crashext.analysis.reach.scan import readable_frames
from crashext.distinct import distinct
from crashext.hosts.base import Bytes
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.progress import Progress

MOST_SEARCHED = 64 << 30
"""Bytes of unread slabs up to which they are searched: a minute or two."""


def spare(graph: Nodes, whole: SlabIndex, references: References, marks: Marks) -> tuple[str, ...]:
    """Mark what unread slabs of crowds may hold; returns what that is: caches, areas, pages."""
    if not whole.crowds:
        return ()
    caches = graph.view.caches.all
    targets = _held_by_crowds_alone(graph, whole, references)
    slots = targets[targets < graph.first_area]
    spared = np.union1d(graph.table.caches(slots).astype(np.int64), _linked(graph, whole))
    names = [caches[i].name for i in spared.tolist()]
    allocated = graph.table.state == State.ALLOCATED
    of_row = np.isin(graph.table.index.cache, spared.astype(np.uint16))
    rows = np.repeat(of_row, np.diff(graph.table.first))
    marks.reached[: graph.first_area][rows & allocated] = True
    beyond = targets[targets >= graph.first_area]
    for name, first, end in (
        ("vmalloc areas", graph.first_area, graph.first_block),
        ("pages", graph.first_block, graph.count),
    ):
        if ((beyond >= first) & (beyond < end)).any():
            marks.reached[first:end] = True
            names.append(name)
    return tuple(names)


def search_unread(
    graph: Nodes,
    whole: SlabIndex,
    frames: Frames,
    stacks: Stacks,
    marks: Marks,
    present: ByFrame[np.bool_] | None,
    progress: Progress,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]] | None:
    """What slabs of crowds that were not read point at: nodes, and whether by their struct pages.

    None where they were not searched: it would not matter, or take too long.
    """
    if not whole.crowds or not _matters(graph, whole, marks):
        return None
    unread = readable_frames(graph.view, frames, present, FrameUse.APART)
    rows = graph.table.row_of_page.map(lambda row: row >= 0).frames()
    unread.set(rows[rows < len(unread)], np.bool_(False))
    if unread.count() << graph.view.space.page_shift > MOST_SEARCHED:
        return None
    return roots_in(graph, stacks, unread, present, progress)


def _matters(graph: Nodes, whole: SlabIndex, marks: Marks) -> bool:
    """Whether a crowd is in use, and anything else unreachable."""
    table = graph.table
    crowded = np.isin(table.index.cache, np.array(list(whole.crowds), np.uint16))
    of_crowd = np.repeat(crowded, np.diff(table.first))
    allocated, reached = table.state == State.ALLOCATED, marks.reached[: table.count]
    if not (of_crowd & allocated & reached).any():
        return False
    lost = (~of_crowd & allocated & ~reached).any()
    return bool(lost or not marks.reached[table.count :].all())


def _held_by_crowds_alone(
    graph: Nodes, whole: SlabIndex, references: References
) -> NDArray[np.int64]:
    """Nodes that only objects of crowds are seen to point at."""
    crowded = np.isin(graph.table.index.cache, np.array(list(whole.crowds), np.uint16))
    others = np.zeros(graph.count, np.bool_)
    others[references.root_target] = True
    found = [np.zeros(0, np.int64)]
    for source, target in (
        (references.source, references.target),
        (references.page_source, references.page_target),
    ):
        from_crowd = source < graph.first_area
        from_crowd[from_crowd] = crowded[graph.table.rows(source[from_crowd].astype(np.int64))]
        others[target[~from_crowd]] = True
        found.append(target[from_crowd].astype(np.int64))
    targets = distinct(np.concatenate(found))
    return targets[~others[targets]]


def _linked(graph: Nodes, whole: SlabIndex) -> NDArray[np.int64]:
    """Crowds that objects of crowds point at, outside the slabs that were read."""
    view, table = graph.view, graph.table
    found = [np.zeros(0, np.int64)]
    for number in whole.crowds:
        reader = view.reader(view.caches.all[number])
        for batch in reader.read(table.index, table.index.rows_of(number)):
            values = distinct(_words(batch.content[batch.state == State.ALLOCATED]))
            values = values[view.space.direct.holds(values)]
            values = values[table.at(values) < 0]
            found.append(view.pointers.resolve(values).cache)
    caches = np.unique(np.concatenate(found))
    return caches[np.isin(caches, list(whole.crowds))]


def _words(content: Bytes) -> Words:
    """All words of objects: uint8[n, bytes] -> uint64[m]."""
    whole = content.shape[1] // 8 * 8
    return np.ascontiguousarray(content[:, :whole]).view("<u8").reshape(-1)

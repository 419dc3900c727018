"""What slabs that were not read may hold.

Of a cache with very many slabs some are read, drawn at random. Where their objects hold something
that nobody else is seen to hold, those that were not read may do the same: what they may hold is
not called unreachable. That leaves what so few of them hold that none was drawn: where more of
such a cache is in use than can be followed (`unread`), all its slabs are searched for pointers to
whatever would be called unreachable; where they are too many for that, none of it is. What is
unreachable itself, holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
_AREAS, _PAGES = "vmalloc areas", "pages"


@dataclass(frozen=True)
class Spared:
    """What slabs that were not read may hold."""

    names: tuple[str, ...] = ()
    """Caches, areas, pages that are not judged for that reason."""
    linked: NDArray[np.bool_] | None = None
    """bool[slots]: unreachable, and maybe no head of what was lost."""


def spare(
    graph: Nodes, whole: SlabIndex, references: References, marks: Marks, followed: bool
) -> Spared:
    """Mark what unread slabs of crowds may hold.

    Where all that is in use of them was `followed`, what they hold is lost like they are; it is
    not judged all the same, for who leaked it is who leaked them. Crowds are: they are what most
    memory is in.
    """
    if not whole.crowds:
        return Spared()
    caches, slots = graph.view.caches.all, graph.first_area
    mute = marks.reached if followed else np.zeros(graph.count, np.bool_)
    targets = _held_by_crowds_alone(graph, whole, references, mute)
    linked = _linked(graph, whole, mute)
    spared = np.union1d(graph.table.caches(targets[targets < slots]).astype(np.int64), linked)
    crowds = list(whole.crowds) if followed else []
    spared = spared[~np.isin(spared, crowds)]
    names = [caches[i].name for i in spared.tolist()]
    allocated = graph.table.state == State.ALLOCATED
    marks.reached[:slots][_of(graph, spared.tolist()) & allocated] = True
    beyond = targets[targets >= slots]
    for name, first, end in (
        (_AREAS, slots, graph.first_block),
        (_PAGES, graph.first_block, graph.count),
    ):
        if ((beyond >= first) & (beyond < end)).any():
            marks.reached[first:end] = True
            names.append(name)
    some = np.intersect1d(linked, crowds).tolist()
    return Spared(tuple(names), _of(graph, some) if some else None)


def search_unread(
    graph: Nodes,
    frames: Frames,
    stacks: Stacks,
    present: ByFrame[np.bool_] | None,
    progress: Progress,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]] | None:
    """What slabs of crowds that were not read point at: nodes, and whether by their struct pages.

    None where it would take too long.
    """
    unread = readable_frames(graph.view, frames, present, FrameUse.APART)
    rows = graph.table.row_of_page.map(lambda row: row >= 0).frames()
    unread.set(rows[rows < len(unread)], np.bool_(False))
    if unread.count() << graph.view.space.page_shift > MOST_SEARCHED:
        return None
    return roots_in(graph, stacks, unread, present, progress)


def lost_beside(graph: Nodes, whole: SlabIndex, marks: Marks) -> bool:
    """Whether anything is unreachable beside objects of crowds."""
    allocated = graph.table.state == State.ALLOCATED
    lost = (~_of(graph, whole.crowds) & allocated & ~marks.reached[: graph.first_area]).any()
    return bool(lost or not marks.reached[graph.first_area :].all())


def hide(
    graph: Nodes,
    whole: SlabIndex,
    marks: Marks,
    unsure: NDArray[np.bool_],
    doubtful: NDArray[np.bool_],
) -> tuple[str, ...]:
    """Accuse nothing of what slabs may hold that nobody could look at; returns what that is.

    Of crowds themselves that are unreachable so much is lost that those slabs cannot hold it.
    """
    table, caches = graph.table, graph.view.caches.all
    hidden = ~marks.reached
    hidden[: table.count] &= (table.state == State.ALLOCATED) & ~_of(graph, whole.crowds)
    unsure |= hidden
    doubtful |= hidden
    marks.reached |= hidden
    slots = np.flatnonzero(hidden[: table.count])
    names = [caches[i].name for i in distinct(table.caches(slots)).tolist()]
    if hidden[graph.first_area : graph.first_block].any():
        names.append(_AREAS)
    if hidden[graph.first_block :].any():
        names.append(_PAGES)
    return tuple(names)


def _of(graph: Nodes, caches: Iterable[int]) -> NDArray[np.bool_]:
    """bool[slots]: those of these caches."""
    rows = np.isin(graph.table.index.cache, np.array(list(caches), np.uint16))
    return np.repeat(rows, np.diff(graph.table.first))


def _held_by_crowds_alone(
    graph: Nodes, whole: SlabIndex, references: References, mute: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Nodes that only objects of crowds are seen to point at, those apart that are `mute`."""
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
        found.append(target[from_crowd & ~mute[source]].astype(np.int64))
    targets = distinct(np.concatenate(found))
    return targets[~others[targets]]


def _linked(graph: Nodes, whole: SlabIndex, mute: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Crowds that objects of crowds, which are not `mute`, point at outside the slabs that were
    read."""
    view, table = graph.view, graph.table
    found = [np.zeros(0, np.int64)]
    for number in whole.crowds:
        reader = view.reader(view.caches.all[number])
        for batch in reader.read(table.index, table.index.rows_of(number)):
            first = table.first[np.searchsorted(table.index.address, batch.base)]
            slots = first[:, None] + np.arange(batch.state.shape[1])[None]
            speaks = (batch.state == State.ALLOCATED) & ~mute[np.minimum(slots, len(mute) - 1)]
            values = distinct(_words(batch.content[speaks]))
            values = values[view.space.direct.holds(values)]
            values = values[table.at(values) < 0]
            found.append(view.pointers.resolve(values).cache)
    caches = np.unique(np.concatenate(found))
    return caches[np.isin(caches, list(whole.crowds))]


def _words(content: Bytes) -> Words:
    """All words of objects: uint8[n, bytes] -> uint64[m]."""
    whole = content.shape[1] // 8 * 8
    return np.ascontiguousarray(content[:, :whole]).view("<u8").reshape(-1)

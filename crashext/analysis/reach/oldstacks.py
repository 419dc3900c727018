"""What is left of a dead task's stack in memory that is another's now: it names the task it was of.

A stack's pages are soon slabs, and what an object does not use of its slot (what kmalloc() rounds
up, what nobody has written yet) still has frames of the task's last call, where the address of the
task itself stands beside return addresses and saved stack pointers. kmemleak takes such words for
references (mm/kmemleak.c: "false negatives"); of a leaked task they are the only ones.

The words are known by what they stand between, which is in no structure: an address in the middle
of a function, and a pointer into vmalloc memory where nothing is any more, which leads a few words
further on in the very page, as it did when the page was a stack. What an object knows of a task by
itself stands before all that it does not use.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes
from crashext.analysis.reach.references import References
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.roots.stacks import Stacks
from crashext.kernel.slab.slots import Slots

_PIECE = 1 << 20
_MOST = 1 << 12  # nodes that are read
_LARGEST = 1 << 13  # bytes of one
_NEAR = 16
"""Words from a task's address to what it stands between."""
_FURTHER = np.uint64(512)
"""Bytes from a saved stack pointer to where it leads."""
_ALIGNED = np.uint64(7)


def drop_old_stacks(nodes: Nodes, references: References, stacks: Stacks) -> int:
    """Have edges that come of such words alone say nothing; how many those are.

    They are led back to where they come from: of the others there may be too many to copy. Where
    edges are in files, which are only read, nothing is done.
    """
    table = nodes.table
    if not len(stacks.ended) or table.store.on_disk:
        return 0
    tasks = table.at(stacks.ended)
    tasks = tasks[tasks >= 0]
    found = _edges_to(references, tasks, nodes)
    stale = set(_named_by_frames(nodes, _holders(nodes, references.source[found], tasks), tasks))
    ends = references.source[found].tolist(), references.target[found].tolist()
    gone = found[np.array([edge in stale for edge in zip(*ends, strict=True)], np.bool_)]
    references.target[gone] = references.source[gone]
    return len(gone)


def _edges_to(references: References, tasks: Slots, nodes: Nodes) -> NDArray[np.int64]:
    """Which edges lead to one of the tasks."""
    wanted = np.zeros(nodes.count, np.bool_)
    wanted[tasks] = True
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(references.target), _PIECE):
        led = references.target[begin : begin + _PIECE]
        found.append(begin + np.flatnonzero(wanted[led]))
    return np.concatenate(found)


def _holders(nodes: Nodes, sources: NDArray[np.int32], tasks: Slots) -> NDArray[np.int64]:
    """The nodes that are looked at: tasks, which are copies of others, have nothing unused."""
    found = np.unique(sources.astype(np.int64))
    found = found[nodes.bytes(found) <= _LARGEST]
    cache = nodes.table.caches(tasks[:1])
    alike = np.flatnonzero(found < nodes.table.count)
    alike = alike[np.isin(nodes.table.caches(found[alike]), cache)]
    return np.delete(found, alike)[:_MOST]


def _named_by_frames(
    nodes: Nodes, sources: NDArray[np.int64], tasks: Slots
) -> Iterator[tuple[int, int]]:
    """Each node of `sources` with each task that words there lead to in old frames alone."""
    lengths = nodes.bytes(sources)
    for length in np.unique(lengths).tolist():
        some = sources[lengths == length]
        starts = nodes.addresses(some)
        data, ok = nodes.view.host.read_many(starts, int(length) & ~7)
        rows = np.ascontiguousarray(data).view("<u8").reshape(len(some), -1)
        pointers = _stack_pointers(nodes, starts, rows)
        for i in np.flatnonzero(ok & pointers.any(axis=1)).tolist():
            led = nodes.pointed_at(rows[i])
            at = np.flatnonzero(np.isin(led, tasks))
            framed = _between(at, _returns(nodes, rows[i]), pointers[i])
            for task in np.setdiff1d(led[at[framed]], led[at[~framed]]).tolist():
                yield int(some[i]), task


def _between(at: NDArray[np.intp], returns: Mask, pointers: Mask) -> Mask:
    """Which indices stand soon after one of the first and soon before one of the others."""
    beyond = at[:, None] - np.flatnonzero(returns)
    ahead = np.flatnonzero(pointers) - at[:, None]
    near = [((d > 0) & (d <= _NEAR)).any(axis=1) for d in (beyond, ahead)]
    return np.asarray(near[0] & near[1], np.bool_)


def _returns(nodes: Nodes, words: Words) -> Mask:
    """Which are addresses inside functions of the kernel, as no pointer to a function is."""
    host, found = nodes.view.host, nodes.view.space.text.holds(words)
    for i in np.flatnonzero(found).tolist():
        symbol = host.symbol_at(int(words[i]))
        found[i] = symbol is not None and symbol.address < int(words[i])
    return found


def _stack_pointers(nodes: Nodes, starts: Words, rows: Words) -> Mask:
    """Which lead a few words further on, by addresses that are nobody's any more."""
    space, areas = nodes.view.space, nodes.areas
    here = starts[:, None] + np.arange(rows.shape[1], dtype=np.uint64) * np.uint64(8)
    further = (rows - here) & np.uint64(space.page_size - 1)
    good = space.vmalloc.holds(rows) & (rows & _ALIGNED == 0)
    good &= (further > 0) & (further <= _FURTHER)
    if len(areas.start):
        where = np.nonzero(good)
        area = np.searchsorted(areas.start, rows[where], side="right") - 1
        good[where] = (area < 0) | (rows[where] >= areas.end[np.maximum(area, 0)])
    return np.asarray(good, np.bool_)

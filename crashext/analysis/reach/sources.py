"""What words of memory are in, as far as it decides what they hold, and what a pass finds.

Both loops over memory ask here, by_arrays.py and compiled_pass.py: they find the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import Nodes, Nodes32
from crashext.analysis.reach.silent import Silent, silent_words
from crashext.analysis.reach.tasklinks import links_of_tasks
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.counters.rcu import cached_pages
from crashext.kernel.origin.slabexts import vector_member
from crashext.kernel.roots.stacks import Stacks

BOOKKEEPING = ("kmemleak_object", "kmemleak_scan_area")
"""Caches whose objects point at every object there is, for reasons of their own."""
_NOWHERE = (1 << 64) - 1
_NO_CACHE = -1


@dataclass(slots=True)
class Found:
    """What one piece of memory says; each with whether the pointer is one to a struct page."""

    edges: list[tuple[bool, Nodes32, Nodes32]] = field(default_factory=list)
    rooted: list[tuple[bool, Words, Nodes32]] = field(default_factory=list)
    dead: list[tuple[Words, Nodes32]] = field(default_factory=list)
    roots: int = 0


@dataclass(frozen=True)
class Sources:
    """One kernel's."""

    nodes: Nodes
    stacks: Stacks
    wanted: ByFrame[np.bool_]
    """Page frames whose words are asked for."""
    silent: Silent
    task: int
    """Index of the tasks' cache; -1: there is none."""
    links: list[tuple[np.uint64, np.uint64]]
    """[start, end) of members that link a task to others for the scheduler's sake alone."""
    bookkeeping: Mask
    """bool[slabs]: objects that point at everything."""
    bookkeeping_word: int
    """RCU's list of callbacks runs through those of them that wait to be freed: where."""
    vector: int
    """Where in its struct page a slab knows its vector of memory cgroups, which may be an object
    of that very slab (5.9 to 5.13)."""
    stale: NDArray[np.int64]
    """int64[n], ascending: page frames of which the first word alone is in use."""


def sources(nodes: Nodes, stacks: Stacks, wanted: ByFrame[np.bool_]) -> Sources:
    """Ask the kernel."""
    view, table = nodes.view, nodes.table
    space, host = view.space, view.host
    ignored = [i for i, c in enumerate(view.caches.all) if c.name in BOOKKEEPING]
    record, vector = host.layout("struct kmemleak_object"), vector_member(host)
    task = view.caches.find("task_struct")
    cached = (cached_pages(host, space) - np.uint64(space.direct.start)) >> np.uint64(
        space.page_shift
    )
    return Sources(
        nodes=nodes,
        stacks=stacks,
        wanted=wanted,
        silent=silent_words(view, table),
        task=_NO_CACHE if task is None else view.caches.index(task),
        links=links_of_tasks(host),
        bookkeeping=np.isin(table.index.cache, np.array(ignored, np.uint16)),
        bookkeeping_word=record["rcu"].offset if record and "rcu" in record else _NOWHERE,
        vector=_NOWHERE if vector is None else vector[0][vector[1]].offset,
        stale=np.unique(cached[cached < np.uint64(len(nodes.of_frame))]).astype(np.int64),
    )

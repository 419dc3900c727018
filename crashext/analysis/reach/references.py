"""Every word of kernel memory that points at a node: a slab object, an area, a block of pages.

A word in an allocated object, an area or a block is an edge from it; a word anywhere else that the
kernel uses is a root. Interior pointers count. Free pages, user pages, free slots, pads, metadata
of slabs and the dead parts of stacks point at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.by_arrays import ByArrays
from crashext.analysis.reach.compiled_pass import CompiledPass
from crashext.analysis.reach.edges import Edges, placed
from crashext.analysis.reach.mapped import mapped_blocks
from crashext.analysis.reach.nodes import Nodes, Nodes32
from crashext.analysis.reach.scan import KERNEL_USES, Scanner, readable_frames, scan_memory
from crashext.analysis.reach.sources import Found, sources
from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.roots.stacks import Stacks
from crashext.progress import Progress

_ROOTS_KEPT = 4  # words that are remembered for each object they point at
_ALLOCATED = (FrameUse.SLAB, FrameUse.KERNEL, FrameUse.UNKNOWN)
_MAYBE_SLAB = (FrameUse.SLAB, FrameUse.UNKNOWN)


@dataclass(frozen=True)
class Coverage:
    """How much of kernel memory the pass saw."""

    present: int
    """Page frames of kernel memory that were read."""
    missing: int
    """Page frames that the kernel allocated and that are not in the dump."""
    missing_slab: int
    """Those of them that belong to slabs, or may."""
    bytes_read: int
    unknown: int = 0
    """Those of them whose struct pages are missing too."""


@dataclass(frozen=True)
class References:
    """Who points at nodes, which are numbered as in `Nodes`."""

    source: NDArray[np.int32]
    """int32[edges], ascending: the node that holds the word."""
    target: NDArray[np.int32]
    """int32[edges]: the node that the word points into."""
    page_source: Nodes32
    """int32[n], ascending: the node that knows a struct page of another, or is linked through its
    own. Left-over ones are frequent (scatterlists): they count after all other pointers."""
    page_target: Nodes32
    root_at: Words
    """uint64[roots]: direct-map offset of a word outside nodes, ascending."""
    root_target: NDArray[np.int32]
    """int32[roots]; a few words are kept for each node."""
    root_page: Mask
    """bool[roots]: the word is a pointer to a struct page."""
    dead_at: Words
    """uint64[n]: the same, for words in dead parts of stacks, which count for nothing."""
    dead_target: NDArray[np.int32]
    roots: int
    """Root words in all."""
    coverage: Coverage


def find_references(
    nodes: Nodes,
    frames: Frames,
    stacks: Stacks,
    present: ByFrame[np.bool_] | None,
    progress: Progress,
    along: Sequence[Scanner[Any]] = (),
) -> References:
    """The pass. Edges take 8 bytes each, where the table's states are; kept roots 12, in memory.

    Scanners `along` look at the same pages.
    """
    view = nodes.view
    readable = readable_frames(view, frames, present, *KERNEL_USES)
    apart = nodes.table.row_of_page.map(lambda row: row >= 0).frames()
    apart = apart[apart < len(frames.use)]
    apart = apart[frames.use[apart] == FrameUse.APART]
    readable.set(apart if present is None else apart[present[apart]], np.bool_(True))
    total = readable.count()
    scanner = _Pointers(nodes, stacks, readable)
    unread = scan_memory(view, readable, present, [scanner, *along], progress, "pointers")
    scanner.join(*mapped_blocks(nodes))
    seen = readable.join(frames.use, lambda read, use: np.where(read, use, FrameUse.ABSENT))
    counts = seen.tally(max(FrameUse) + 1)
    counts -= np.bincount(frames.use[unread], minlength=len(counts))
    counts[FrameUse.ABSENT] = 0
    # Reserved page frames that the dump lacks are holes between banks of memory: no dump has them.
    missing = frames.count(*_ALLOCATED) - int(counts[list(_ALLOCATED)].sum())
    missing_slab = frames.count(*_MAYBE_SLAB) - int(counts[list(_MAYBE_SLAB)].sum())
    unknown = frames.count(FrameUse.UNKNOWN) - int(counts[FrameUse.UNKNOWN])
    size = total << view.space.page_shift
    return scanner.result(Coverage(int(counts.sum()), missing, missing_slab, size, unknown))


def roots_in(
    nodes: Nodes,
    stacks: Stacks,
    wanted: ByFrame[np.bool_],
    present: ByFrame[np.bool_] | None,
    progress: Progress,
) -> tuple[NDArray[np.int32], Mask]:
    """Nodes that words of these page frames point at, which are no nodes' own: each once at least,
    and whether by its struct page."""
    scanner = _Pointers(nodes, stacks, wanted)
    scan_memory(nodes.view, wanted, present, [scanner], progress, "pointers in more slabs")
    found = scanner.result(Coverage(0, 0, 0, 0))
    return found.root_target, found.root_page


class _Pointers:
    """The scanner for pointers to nodes, and what it found so far."""

    def __init__(self, nodes: Nodes, stacks: Stacks, wanted: ByFrame[np.bool_]) -> None:
        self._store = nodes.table.store
        known = sources(nodes, stacks, wanted)
        loops = nodes.table.loops
        with_loops = None if loops is None else CompiledPass(known, loops)
        self.look = ByArrays(known).look if with_loops is None else with_loops.look
        self._edges = {by_page: Edges(nodes.first_area, self._store) for by_page in (False, True)}
        self._rooted: dict[bool, list[tuple[Words, Nodes32]]] = {False: [], True: []}
        self._dead: list[tuple[Words, Nodes32]] = []
        self._kept = np.zeros(nodes.count, np.uint8)
        self._roots = 0

    def take(self, found: Found) -> None:
        """Keep it; of what is found in one go a target's first word counts."""
        for by_page, source, target in found.edges:
            self._edges[by_page].add(source, target)
        self._dead += found.dead
        self._roots += found.roots
        self._store.release()
        for by_page, where, target in found.rooted:
            fresh = self._kept[target] < _ROOTS_KEPT
            where, target = where[fresh], target[fresh]
            self._kept[target] += 1
            self._rooted[by_page].append((where, target))

    def join(self, source: Nodes32, target: Nodes32) -> None:
        """Edges that no word is."""
        self._edges[False].add(source, target)

    def result(self, coverage: Coverage) -> References:
        rooted = [*self._rooted[False], *self._rooted[True]]
        root_at, root_target = placed(rooted)
        by_page = np.isin(root_at, placed(self._rooted[True])[0])
        dead_at, dead_target = placed(self._dead)
        return References(
            *self._edges[False].ordered(),
            *self._edges[True].ordered(),
            root_at,
            root_target,
            by_page,
            dead_at,
            dead_target,
            self._roots,
            coverage,
        )

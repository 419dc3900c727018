"""Of one vmalloc area, or one block of pages: who asked for it, and how many are like it."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.pagegroups import Label, label_pages
from crashext.analysis.origin.ladder import Ladder
from crashext.analysis.origin.page_callers import with_callers
from crashext.analysis.page_reach import described
from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.callsites import Callers
from crashext.analysis.results.estimate import Estimate, clustered_share
from crashext.analysis.results.evidence import Allocator, UnreachableMemory
from crashext.analysis.results.standing import Beyond, Siblings
from crashext.hosts.base import U64
from crashext.kernel.roots.places import symbolic
from crashext.wording import called, plural

RUNG = "vm-struct"
_LOOKED = 512
"""Blocks whose content is compared."""


def beyond_slabs(marked: Reach, ladder: Ladder, node: int) -> Beyond | None:
    """What is known of the area or block `node`; None for a slab object."""
    kind = marked.nodes.kind(node)
    if kind is NodeKind.OBJECT:
        return None
    return (_of_area if kind is NodeKind.AREA else _of_block)(marked, ladder, node)


def _of_area(marked: Reach, ladder: Ladder, node: int) -> Beyond:
    areas, host = marked.areas, marked.view.host
    row = int(marked.nodes.area_row[node - marked.nodes.first_area])
    caller = int(areas.caller[row])
    symbol = host.symbol_at(caller) if caller else None
    rows = _of_function(marked, symbol.address if symbol else caller)
    lost = ~marked.areas_reached()[rows]
    start = int(areas.start[row])
    name = symbol.name if symbol else f"{caller:#x}" if caller else ""
    module = symbol.module if symbol else ""
    siblings = Siblings(
        what=f"vmalloc areas of {called(name, module)}",
        count=Estimate.known(len(rows)),
        of=len(marked.nodes.area_row),
        bytes=int(areas.pages[rows].sum()) << areas.page_shift,
        unreachable=Estimate.known(int(lost.sum())),
    )
    frames = areas.frame[areas.frame_area == row]
    named = ladder.of_memory(start, frames.astype(np.uint64))
    if not named and caller:
        named = (_by_record(symbolic(symbol, caller).removesuffix(f" [{module}]"), module),)
    return Beyond(siblings, "", named, _code(marked, "vmalloc", name, module, ()))


def _of_function(marked: Reach, function: int) -> NDArray[np.int64]:
    """Rows of the nodes' areas that one function asked for, wherever in it."""
    areas, rows, host = marked.areas, marked.nodes.area_row, marked.view.host
    same = []
    for caller in np.unique(areas.caller[rows]).tolist():
        symbol = host.symbol_at(caller) if caller else None
        if (symbol.address if symbol else caller) == function:
            same.append(caller)
    return rows[np.isin(areas.caller[rows], np.array(same, np.uint64))]


def _by_record(site: str, module: str) -> Allocator:
    """The area's own vm_struct notes who asked for it."""
    return Allocator(rung=RUNG, site=site, module=module, stack=(), objects=1, of=1)


def _of_block(marked: Reach, ladder: Ladder, node: int) -> Beyond:
    blocks, view = marked.nodes.blocks, marked.view
    own = node - marked.nodes.first_block
    pages, frame = int(blocks.pages[own]), int(blocks.first[own])
    rows = np.flatnonzero(blocks.pages == pages)
    some = rows
    if len(rows) > _LOOKED:
        some = np.unique(np.append(rows[np.linspace(0, len(rows) - 1, _LOOKED).astype(int)], own))
    labels = label_pages(view, blocks.first[some])
    mine = labels.get(frame)
    alike = np.array([labels.get(f) == mine for f in blocks.first[some].tolist()])
    lost = alike & ~marked.blocks_reached()[some]
    total = Estimate.known(len(rows))
    ones = np.ones(len(some), np.int64)
    count, unreachable = (
        clustered_share(hits.astype(np.int64), ones, len(rows)).of(total) for hits in (alike, lost)
    )
    content, module = described(mine, [m.name for m in view.host.modules()])
    siblings = Siblings(
        what=f"blocks of {plural(pages, 'page')} with the same in them: {content}",
        count=count,
        of=len(rows),
        bytes=count.estimate * pages << view.space.page_shift,
        unreachable=unreachable,
    )
    frames = np.arange(frame, frame + pages, dtype=np.uint64)
    named = ladder.of_memory(view.space.address(frame), frames[:1])
    orders = _orders_alike(marked, own, mine)
    return Beyond(siblings, content, named, _code(marked, "pages", content, module, orders))


def _orders_alike(marked: Reach, own: int, label: Label | None) -> tuple[tuple[int, int], ...]:
    """Orders of blocks with the same in them that have the same fate, and how many of each: one
    place may have asked for all of them, and then it works its order out."""
    blocks, reached = marked.nodes.blocks, marked.blocks_reached()
    rows = np.flatnonzero(reached == reached[own])
    if len(rows) > _LOOKED:
        rows = np.unique(np.append(rows[np.linspace(0, len(rows) - 1, _LOOKED).astype(int)], own))
    labels = label_pages(marked.view, blocks.first[rows])
    alike = np.array([labels.get(f) == label for f in blocks.first[rows].tolist()])
    return tuple(sorted(Counter(blocks.orders()[rows[alike]].tolist()).items()))


def _code(
    marked: Reach,
    kind: Literal["vmalloc", "pages"],
    what: str,
    module: str,
    orders: tuple[tuple[int, int], ...],
) -> Callers | None:
    one = UnreachableMemory(kind, what, module, 1, 1, 0, orders, (U64(0),))
    return with_callers(marked.view, one).callers

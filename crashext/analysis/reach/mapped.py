"""Blocks of pages that areas map and have no list of: vmap()'s, whose caller keeps that.

The list may lie in the very pages, as that of a BPF ring buffer does (bpf_ringbuf.pages,
kernel/bpf/ringbuf.c; 5.8 to 7.2): then nothing else leads to them.
"""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.nodes import Nodes, Nodes32
from crashext.kernel.pages.areas import VM_MAP
from crashext.kernel.pages.pagetables import physical

_AT_ONCE = 1 << 16
_MOST = 1 << 22
"""Pages that are looked up: 16 GiB of them."""


def mapped_blocks(nodes: Nodes) -> tuple[Nodes32, Nodes32]:
    """Edges from areas to blocks: int32[n] twice."""
    areas, view = nodes.areas, nodes.view
    page = np.uint64(view.space.page_size)
    number = np.flatnonzero(areas.flags[nodes.area_row] & np.uint32(VM_MAP) != 0)
    row = nodes.area_row[number]
    number = number[(areas.pages[row] == 0) & (areas.start[row] < areas.end[row])]
    row = nodes.area_row[number]
    pages = ((areas.end[row] - areas.start[row]) // page).astype(np.int64)
    # The small ones first: one that is huge, or whose end is damaged, costs the others nothing.
    order = np.argsort(pages, kind="stable")
    order = order[np.cumsum(np.minimum(pages[order], _MOST + 1)) <= _MOST]
    number, row, pages = number[order], row[order], pages[order]
    which = np.repeat(np.arange(len(row)), pages)
    inside = np.arange(len(which)) - np.repeat(np.cumsum(pages) - pages, pages)
    address = areas.start[row][which] + inside.astype(np.uint64) * page
    sources, targets = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for begin in range(0, len(address), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        where, ok = physical(view.host, view.space, address[some])
        frame = view.space.frames(where)
        ok &= frame < np.uint64(len(nodes.of_frame))
        block = nodes.of_frame[frame[ok].astype(np.int64)]
        is_block = block >= nodes.first_block
        sources.append((nodes.first_area + number[which[some][ok][is_block]]).astype(np.int32))
        targets.append(block[is_block])
    return np.concatenate(sources), np.concatenate(targets)

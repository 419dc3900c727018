"""Which of the page allocator's blocks are in use, once a pointer leads to one page of them.

A pointer to any page of a block holds all of it, and struct pages hold each other: drivers chain
their pools through `page->lru` (blk-mq's requests, page_pool) or `page->private` (drbd_pp_pool),
with nothing but the first struct page in a variable.

Sources: block/blk-mq.c blk_mq_alloc_rqs(), drivers/block/drbd/drbd_main.c (5.10 to 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.mark import Marks, mark
from crashext.hosts.base import Mask
from crashext.kernel.access import Words, column, require
from crashext.kernel.compound import tails
from crashext.kernel.slab.view import KernelView

MAX_FRAMES = 1 << 22
"""Page frames whose struct pages are looked at: 16 GiB of kernel pages."""
_PIECE = 1 << 16


@dataclass(frozen=True)
class _Rows:
    """What the struct pages of some page frames say, one array element a frame."""

    start: Mask
    """The frame begins a block."""
    following: Words
    """lru.next"""
    preceding: Words
    """lru.prev"""
    private: Words


def spread(view: KernelView, frames: NDArray[np.int64], named: Mask) -> Mask:
    """Which of `frames` are in use, where pointers lead to those that are `named`.

    `frames` are all page frames that the kernel has from the page allocator, ascending.
    """
    if not len(frames) or len(frames) > MAX_FRAMES:
        return named
    pieces = [_read(view, frames[at : at + _PIECE]) for at in range(0, len(frames), _PIECE)]
    columns = (
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("start", "following", "preceding", "private")
    )
    rows = _Rows(*columns)
    starts = rows.start | (np.diff(frames, prepend=-2) != 1)
    block = np.cumsum(starts) - 1
    sources, targets = _links(view, frames, rows)
    source, target = block[sources].astype(np.int32), block[targets].astype(np.int32)
    order = np.argsort(source, kind="stable")
    marks = Marks(int(block[-1]) + 1)
    mark(marks, source[order], target[order], np.unique(block[named]).astype(np.int32))
    return np.asarray(marks.reached[block], np.bool_)


def _read(view: KernelView, frames: NDArray[np.int64]) -> _Rows:
    page = require(view.host, "struct page", "flags", "lru", "private")
    rows, ok = view.memory.rows(frames.astype(np.uint64))
    lru = page["lru"].offset
    following, preceding = (
        np.ascontiguousarray(rows[:, at : at + 8]).view("<u8").reshape(-1) for at in (lru, lru + 8)
    )
    tail = tails(view.host, page).among(rows)
    count, bit = page.first_of("_refcount", "_count"), view.host.enumerator("PG_head")
    begins = np.ones(len(rows), np.bool_) if count is None else column(rows, count) != 0
    if bit is not None:
        begins |= column(rows, page["flags"]) >> np.uint64(bit) & np.uint64(1) == 1
    zero = np.uint64(0)
    linked = ok & ~tail  # a tail's link to its head lies where lru does
    return _Rows(
        (begins & ~tail) | ~ok,
        np.where(linked, following, zero),
        np.where(linked, preceding, zero),
        np.where(linked, column(rows, page["private"]), zero),
    )


def _links(
    view: KernelView, frames: NDArray[np.int64], rows: _Rows
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of frames whose struct pages hold each other's."""
    page = require(view.host, "struct page", "lru")
    lru = np.uint64(page["lru"].offset)
    own = view.memory.maps_of(frames.astype(np.uint64))
    at, to = _leads_to(view, frames, rows.following - lru)
    # What is on a list is named by its neighbour in turn: a stale link is not.
    mutual = rows.preceding[to] == own[at] + lru
    at, to = at[mutual], to[mutual]
    first, other = _leads_to(view, frames, rows.private)
    return np.concatenate([at, to, first]), np.concatenate([to, at, other])


def _leads_to(
    view: KernelView, frames: NDArray[np.int64], maps: Words
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i, j): `maps[i]` is exactly the address of the struct page of `frames[j]`."""
    pfns, ok = view.memory.pfns_of(maps)
    at = np.flatnonzero(ok)
    at = at[view.memory.maps_of(pfns[at]) == maps[at]]
    wanted = pfns[at].astype(np.int64)
    to = np.minimum(np.searchsorted(frames, wanted), len(frames) - 1)
    good = frames[to] == wanted
    return at[good], to[good]

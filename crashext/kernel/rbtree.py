"""Walking and searching red-black trees, with a bound and without trust.

It knows nothing of what is in the tree. Source: include/linux/rbtree.h (rb_node).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Addresses, Bytes, Host, Layout, Mask, Member
from crashext.kernel.access import Words, column, words_at

_MAX_LEVELS = 64  # a red-black tree of 2**32 nodes is no deeper

Sides = Callable[[Bytes, Words], NDArray[np.int64]]
"""(rows, keys) -> int64[n]: negative where a key is left of its row, positive right, 0 there."""


def nodes(host: Host, roots: Addresses, limit: int) -> tuple[Words, int]:
    """Addresses of every rb_node of the trees whose rb_roots are at `roots`, a level at a time.

    At most about `limit`. Also how many nodes and roots could not be read.
    """
    rb = host.layout("struct rb_node")
    if rb is None:
        return np.zeros(0, np.uint64), 0
    level, ok = words_at(host, roots)
    faults = int((~ok).sum())
    found: list[Words] = []
    seen = np.zeros(0, np.uint64)  # ascending
    for _ in range(_MAX_LEVELS):
        level = _fresh(level, seen)
        seen = np.sort(np.concatenate([seen, level]))
        if not len(level) or len(seen) > limit:
            break
        found.append(level)
        rows, ok = host.read_many(level, rb.size)
        faults += int((~ok).sum())
        children = [column(rows[ok], rb[side]) for side in ("rb_left", "rb_right")]
        level = np.concatenate(children)
    return np.concatenate([np.zeros(0, np.uint64), *found]), faults


def _fresh(level: Words, seen: Words) -> Words:
    """Those of a level that are no null pointer and were not seen, each once, in their order."""
    _, first = np.unique(level, return_index=True)
    level = level[np.sort(first)]
    at = np.minimum(np.searchsorted(seen, level), max(len(seen) - 1, 0))
    known = seen[at] == level if len(seen) else np.zeros(len(level), np.bool_)
    fresh: Words = level[(level != 0) & ~known]
    return fresh


def search(
    host: Host, root: int, layout: Layout, link: int, keys: Words, sides: Sides
) -> tuple[Bytes, Mask]:
    """The structures of a tree that some keys belong to, by one descent for all of them.

    `root` is the first rb_node; `layout` the structure's, whose rb_node is at `link`. Returns
    uint8[n, layout.size], and which keys were found.
    """
    rows, hit = np.zeros((len(keys), layout.size), np.uint8), np.zeros(len(keys), np.bool_)
    rb = host.layout("struct rb_node")
    if rb is None or not root:
        return rows, hit
    left, right = (Member(link + rb[side].offset, 8) for side in ("rb_left", "rb_right"))
    at = np.full(len(keys), root, np.uint64)
    todo = np.arange(len(keys))
    for _ in range(_MAX_LEVELS):
        if not len(todo):
            break
        here, inverse = np.unique(at[todo], return_inverse=True)
        read, ok = host.read_many(here - np.uint64(link), layout.size)
        side = sides(read[inverse], keys[todo])
        good = ok[inverse]
        found = good & (side == 0)
        rows[todo[found]], hit[todo[found]] = read[inverse[found]], True
        children = np.where(side < 0, column(read, left)[inverse], column(read, right)[inverse])
        at[todo] = children
        todo = todo[good & ~found & (children != 0)]
    return rows, hit

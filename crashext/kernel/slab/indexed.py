"""Free slots from SLAB's own lists: arrays of slot numbers, checked against the slab's counters.

Sources: mm/slab.c get_free_obj(), slab_get_obj() (4.18, 6.1); slab_bufctl() (2.6.32, 3.10).
"""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Host, Mask
from crashext.kernel.access import Words
from crashext.kernel.slab.freelist import Walk

_BUFCTL = 4  # typedef unsigned int kmem_bufctl_t


def numbered(host: Host, arrays: Words, active: Words, objects: int, width: int) -> Walk:
    """The slots whose numbers stand in an array from `active` on.

    `arrays` are addresses of freelist_idx_t[objects], `width` bytes each. The array may lie at the
    end of the slab, in an object of another cache, or in a free object of the slab itself
    (OBJFREELIST_SLAB, b03a017bebc4, 4.6), where only its part from `active` on is kept.
    """
    count = len(arrays)
    free, broken = np.zeros((count, objects), np.bool_), active > np.uint64(objects)
    some = np.flatnonzero(active < np.uint64(objects))  # a full slab may have no array
    if not len(some):
        return Walk(free, broken)
    data, ok = host.read_many(arrays[some], objects * width)
    numbers = np.ascontiguousarray(data).view(f"<u{width}").reshape(len(some), objects)
    listed = np.arange(objects)[None] >= active[some].astype(np.int64)[:, None]
    sound = listed & (numbers < objects)
    row, at = np.nonzero(sound & ok[:, None])
    free[some[row], numbers[row, at].astype(np.intp)] = True
    expected = objects - active[some].astype(np.int64)
    # A number that is too large, or there twice, leaves fewer than there should be.
    broken[some] = ~ok | (free[some].sum(axis=1) != expected)
    return Walk(free, broken)


def chained(host: Host, arrays: Words, heads: Words, inuse: Words, objects: int) -> Walk:
    """The slots on a chain of numbers that begins with `heads`; `arrays` holds the next of each."""
    count = len(arrays)
    data, ok = host.read_many(arrays, objects * _BUFCTL)
    following = np.ascontiguousarray(data).view("<u4").reshape(count, objects)
    free, broken = np.zeros((count, objects), np.bool_), ~ok
    left = np.where(broken | (inuse > objects), 0, objects - inuse.astype(np.int64))
    at = heads.astype(np.int64)
    for _ in range(objects):
        rows = np.flatnonzero(left > 0)
        if not len(rows):
            break
        sound = at[rows] < objects
        sound[sound] = ~free[rows[sound], at[rows[sound]]]
        broken[rows[~sound]] = True
        left[rows[~sound]] = 0
        rows = rows[sound]
        free[rows, at[rows]] = True
        left[rows] -= 1
        at[rows] = following[rows, at[rows]]
    return Walk(free, broken | _overfull(inuse, objects))


def _overfull(inuse: Words, objects: int) -> Mask:
    return np.asarray(inuse > np.uint64(objects), np.bool_)

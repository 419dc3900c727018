"""Which arrays of pointers are the reserves of mempools: objects that were put by when a pool was
made.

A pool has the address of its array beside that of the cache that it was filled from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import sources_into
from crashext.analysis.reach.reachability import Reach
from crashext.hosts.base import Bytes
from crashext.kernel.access import Words
from crashext.kernel.origin.structures import pool_arrays
from crashext.kernel.slab.caches import SlabCache

_MOST_ARRAYS, _MOST_OWNERS = 64, 256
_LARGEST = 1 << 14
"""Bytes of what a pool is a part of."""
_NEARLY_ALL = 0.95


def are_reserves(marked: Reach, arrays: NDArray[np.int64], cache: SlabCache) -> bool:
    """Whether nearly all of the nodes `arrays` are what mempools keep objects of `cache` in."""
    step = pool_arrays(marked.view.host)
    arrays = np.unique(arrays[arrays >= 0])
    arrays = arrays[np.linspace(0, len(arrays) - 1, min(len(arrays), _MOST_ARRAYS)).astype(np.intp)]
    if step is None or not len(arrays):
        return False
    starts = np.sort(marked.nodes.addresses(arrays))
    pools = np.zeros(len(starts), np.bool_)
    for words in _words(marked, arrays, step // 8):
        led, given = words[:, : -step // 8].reshape(-1), words[:, step // 8 :].reshape(-1)
        which = np.minimum(np.searchsorted(starts, led), len(starts) - 1)
        filled = (starts[which] == led) & (given == np.uint64(cache.address))
        pools[which[filled]] = True
    return float(pools.mean()) >= _NEARLY_ALL


def _words(marked: Reach, arrays: NDArray[np.int64], behind: int) -> Iterator[Words]:
    """What may point at them, in rows, with some words behind it: in variables, and other nodes."""
    references, nodes, host = marked.references, marked.nodes, marked.view.host
    wanted = np.zeros(nodes.count, np.bool_)
    wanted[arrays] = True
    hits = np.flatnonzero(wanted[references.root_target])[:_MOST_OWNERS]
    at = np.unique(references.root_at[hits]) + np.uint64(marked.view.space.direct.start)
    data, ok = host.read_many(at, 8 * behind + 8)
    yield _in_rows(data[ok], behind + 1)
    found = sources_into(references.source, references.target, wanted, marked.marks.store)
    owners = np.unique(found.astype(np.int64))
    sizes = nodes.bytes(owners)
    for size in np.unique(sizes[(sizes <= _LARGEST) & (sizes > 8 * behind)]).tolist():
        some = owners[sizes == size][:_MOST_OWNERS]
        data, ok = host.read_many(nodes.addresses(some), size & ~7)
        yield _in_rows(data[ok], size // 8)


def _in_rows(data: Bytes, length: int) -> Words:
    return np.ascontiguousarray(data).view("<u8").reshape(-1, length)

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
    for places in _pointed_from(marked, arrays):
        data, ok = marked.view.host.read_many(places, step + 8)
        words = np.ascontiguousarray(data[ok]).view("<u8").reshape(int(ok.sum()), -1)
        which = np.minimum(np.searchsorted(starts, words[:, 0]), len(starts) - 1)
        filled = (starts[which] == words[:, 0]) & (words[:, -1] == np.uint64(cache.address))
        pools[which[filled]] = True
    return float(pools.mean()) >= _NEARLY_ALL


def _pointed_from(marked: Reach, arrays: NDArray[np.int64]) -> Iterator[Words]:
    """Addresses of words that may point at them: in variables, and in other nodes."""
    references, nodes = marked.references, marked.nodes
    wanted = np.zeros(nodes.count, np.bool_)
    wanted[arrays] = True
    hits = np.flatnonzero(wanted[references.root_target])[:_MOST_OWNERS]
    yield np.unique(references.root_at[hits]) + np.uint64(marked.view.space.direct.start)
    found = sources_into(references.source, references.target, wanted, marked.marks.store)
    owners = np.unique(found.astype(np.int64))
    owners = owners[nodes.bytes(owners) <= _LARGEST][:_MOST_OWNERS]
    for start, size in zip(
        nodes.addresses(owners).tolist(), nodes.bytes(owners).tolist(), strict=True
    ):
        yield np.uint64(start) + np.arange(0, size - 8, 8).astype(np.uint64)

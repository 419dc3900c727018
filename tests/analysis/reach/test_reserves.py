"""Arrays that mempools keep objects in, on a real kernel's fs_bio_set."""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.reserves import are_reserves
from crashext.kernel.access import u64
from crashext.kernel.origin.structures import pool_data
from tests.conftest import lab_view
from tests.end_to_end.guests import marked

NAME = "traced"


def _array_of_bios() -> tuple[int, int]:
    """The address of the array, and of the cache, of the pool for file systems' bios."""
    host = lab_view(NAME).host
    bioset, pool = host.layout("struct bio_set"), host.layout("struct mempool_s")
    variable, data = host.address_of("fs_bio_set"), pool_data(host)
    assert bioset is not None
    assert pool is not None
    first, elements = bioset.first_of("bio_pool"), pool.first_of("elements")
    assert variable
    assert data
    assert first is not None
    assert elements is not None
    at = variable + first.offset
    return u64(host, at + elements.offset), u64(host, at + data)


def test_the_array_of_a_pool_is_told_by_the_cache_beside_it() -> None:
    reach, view = marked(NAME), lab_view(NAME)
    array, address = _array_of_bios()
    nodes = reach.nodes.pointed_at(np.array([array], np.uint64))
    mine = next(c for c in view.caches.all if c.address == address)
    assert are_reserves(reach, nodes, mine)
    other = next(c for c in view.caches.all if c.address != address)
    assert not are_reserves(reach, nodes, other)


def test_objects_of_another_kind_are_no_reserve() -> None:
    reach, view = marked(NAME), lab_view(NAME)
    cache = view.caches.find("task_struct")
    assert cache is not None
    array, address = _array_of_bios()
    mine = next(c for c in view.caches.all if c.address == address)
    rows = view.index.rows_of(view.caches.index(cache))[:4]
    some = np.concatenate([np.arange(*reach.table.first[r : r + 2]) for r in rows.tolist()])
    assert len(some)
    assert not are_reserves(reach, some, mine)
    both = np.append(some, reach.nodes.pointed_at(np.array([array], np.uint64)))
    assert not are_reserves(reach, both, mine)
    assert not are_reserves(reach, np.zeros(0, np.int64), mine)

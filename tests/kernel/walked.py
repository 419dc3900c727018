"""What our own walker finds, in the form in which tests compare it."""

from __future__ import annotations

from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.view import KernelView


def allocated_addresses(view: KernelView, cache: SlabCache) -> list[int]:
    """Every allocated object that our walker finds, sorted."""
    index = view.index
    rows = index.rows_of(view.caches.index(cache))
    found: list[int] = []
    for batch in view.reader(cache).read(index, rows):
        assert not batch.broken.any()
        assert not batch.mismatched.any()
        found += batch.address[batch.state == State.ALLOCATED].tolist()
    return sorted(found)

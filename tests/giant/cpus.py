"""What the last of very many CPUs has: a slab to allocate from, another in reserve, and the only
pointers to some objects.

Its memory is the real kernel's, which had that many CPUs to expect (`possible_cpus=`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .image import PAGE
from .kernel import Kernel
from .objects import Objects, Words
from .pages import Workspace
from .slabs import link_free

_HELD, _CURRENT = "kmalloc-1k", "kmalloc-2k"
_VARIABLE = "softnet_data"
_FREE = (5, 3)
_FROZEN = 1 << 31  # of struct slab's counters


class LastCpu:
    """Adds to it; `truth` says what, `slab_pages` what that took."""

    def __init__(self, kernel: Kernel, work: Workspace) -> None:
        self.kernel, self.work = kernel, work
        self.cpus = len(kernel.space.percpu_offsets)
        self._offset = kernel.space.percpu_offsets[-1]
        self.slab_pages = 0
        self.truth: dict[str, Any] = {}

    def add(self) -> None:
        """All of it."""
        held, lost = self._hold()
        used = [self._slab(on, free) for on, free in zip(("slab", "partial"), _FREE, strict=True)]
        self.truth = {
            "cpus": self.cpus,
            "held": [int(a) for a in held],
            "lost": [int(a) for a in lost],
            "used": [int(a) for some in used for a in some],
            "caches": [_HELD, _CURRENT],
        }

    def _objects(self, name: str) -> Objects:
        cache = self.kernel.view.caches.find(name)
        assert cache is not None, name
        return Objects(self.kernel, self.work, cache)

    def _done(self, objects: Objects) -> None:
        objects.count()
        self.slab_pages += objects.slabs << objects.cache.order

    def _hold(self) -> tuple[Words, Words]:
        """Objects that only a variable of this CPU knows, and as many that nobody knows."""
        objects = self._objects(_HELD)
        each = objects.cache.objects_per_slab
        known = objects.take(2 * each)
        objects.fill(known, np.full((2 * each, 8), 0x11, np.uint8))
        self._done(objects)
        kernel = self.kernel
        at = kernel.physical((kernel.symbol(_VARIABLE) + self._offset) & (1 << 64) - 1)
        size = kernel.layout(f"struct {_VARIABLE}").size
        words = np.frombuffer(kernel.image.read(at, size), "<u8").copy()
        words[np.flatnonzero(words == 0)[:each]] = known[:each]
        kernel.image.write(at, words)
        return known[:each], known[each:]

    def _slab(self, member: str, free: int) -> Words:
        """A slab of this CPU's, of which the first objects are free: the others."""
        kernel, objects = self.kernel, self._objects(_CURRENT)
        cache, each = objects.cache, objects.cache.objects_per_slab
        slots = objects.take(each)
        data = np.zeros(PAGE << cache.order, np.uint8)
        link_free(cache, data, slots[:free])
        physical = kernel.physical(int(slots[0]))
        kernel.image.write(physical, data)
        self._done(objects)
        row = self.work.rows[self.work.row_of(physical)]
        slab = kernel.layout("struct slab")
        # Of the slab that a CPU allocates from the CPU has the list of what is free.
        own = member == "slab"
        inuse = each if own else each - free
        _word(row, slab["freelist"].offset, 0 if own else int(slots[0]), 8)
        _word(row, slab["inuse"].offset, inuse | each << 16 | _FROZEN, 4)
        of_cache, of_cpu = (kernel.layout(f"struct {n}") for n in ("kmem_cache", "kmem_cache_cpu"))
        cpu = kernel.read(cache.address + of_cache["cpu_slab"].offset) + self._offset
        cpu &= (1 << 64) - 1
        kernel.write(cpu + of_cpu[member].offset, self.work.map_address(physical))
        if own:
            kernel.write(cpu + of_cpu["freelist"].offset, int(slots[0]))
        return slots[free:]


def _word(row: np.ndarray[Any, np.dtype[np.uint8]], at: int, value: int, size: int) -> None:
    row[at : at + size] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)

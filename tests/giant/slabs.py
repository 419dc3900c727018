"""Slabs of leaked objects: whole sections that are alike, and single slabs with free slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.access import require
from crashext.kernel.slab.caches import SlabCache
from tests.lab import Dump, read_addresses

from .image import PAGE
from .kernel import Kernel
from .pages import Rows, Workspace

_REAL = 4096
"""Pages of real leaked objects that are copied, at most."""


class LeakedSlabs:
    """Pages of the base dump that hold nothing but leaked objects, and what describes them."""

    def __init__(self, kernel: Kernel, base: Dump, part: str) -> None:
        truth = base.truth()["parts"][part]
        self.kernel = kernel
        self.base = int(truth["count"])
        cache = kernel.view.caches.find(truth["cache"])
        assert cache is not None
        assert cache.order == 0
        self.cache: SlabCache = cache
        addresses = np.array(read_addresses(base.folder / truth["addresses"]), np.uint64)
        pages, counts = np.unique(addresses // np.uint64(PAGE), return_counts=True)
        full = pages[counts == cache.objects_per_slab][:_REAL]
        assert len(full), "no slab is full of leaked objects"
        data = [kernel.image.read(kernel.physical(int(a)), PAGE) for a in full * np.uint64(PAGE)]
        self.pages = np.frombuffer(b"".join(data), np.uint8).reshape(-1, PAGE)
        self._slab = require(kernel.host, "struct slab", "freelist", "inuse", "slab_list")
        pfn = full[:1] - np.uint64(kernel.space.direct.start // PAGE)
        self.row: Rows = kernel.view.memory.rows(pfn)[0][0].copy()
        self._describe(self.row, 0, cache.objects_per_slab)

    def _describe(self, row: Rows, first_free: int, inuse: int) -> None:
        free, counters = self._slab["freelist"].offset, self._slab["inuse"].offset
        row[free : free + 8] = np.array([first_free], "<u8").view(np.uint8)
        word = inuse | self.cache.objects_per_slab << 16
        row[counters : counters + 4] = np.array([word], "<u4").view(np.uint8)

    def content(self, pages: int, rng: np.random.Generator) -> Rows:
        """uint8[pages, 4096] of leaked objects."""
        return self.pages[rng.integers(len(self.pages), size=pages)]

    def partial(self, work: Workspace, count: int, rng: np.random.Generator) -> int:
        """Add single slabs with some free slots, on the node's list; returns the objects left."""
        slots, links, left = self.cache.objects_per_slab, [], 0
        for page in self.content(count, rng):
            at = work.take(1, self.row)
            free = rng.permutation(slots)[: rng.integers(1, slots)]
            data = page.copy()
            chain = np.uint64(work.address(at)) + free.astype(np.uint64) * np.uint64(
                self.cache.slot_size
            )
            link_free(self.cache, data, chain)
            work.kernel.image.write(at, data)
            self._describe(work.rows[work.row_of(at)], int(chain[0]), slots - len(free))
            links.append(work.map_address(at) + self._slab["slab_list"].offset)
            left += slots - len(free)
        self._on_list(work, links)
        return left

    def _on_list(self, work: Workspace, links: list[int]) -> None:
        """Put slabs on the list of partial slabs of the first node."""
        kernel, node = self.kernel, self.cache.nodes[0]
        layout = kernel.layout("struct kmem_cache_node")
        head = node + layout["partial"].offset
        first = kernel.read(head)
        chain = [head, *links, first]
        offset = self._slab["slab_list"].offset
        for i, link in enumerate(links, 1):
            row = (link - offset - work.map_address(work.start)) // work.templates.page.size
            both = np.array([chain[i + 1], chain[i - 1]], "<u8").view(np.uint8)
            work.rows[row, offset : offset + 16] = both
        if links:
            kernel.write(head, links[0])
            kernel.write(first + 8, links[-1])
            kernel.bump(node + layout["nr_partial"].offset, len(links))

    def count(self, node: int, slabs: int) -> None:
        """Let the node's counters know of slabs that were added."""
        layout = self.kernel.layout("struct kmem_cache_node")
        at = self.cache.nodes[node]
        self.kernel.bump(at + layout["nr_slabs"].offset, slabs)
        self.kernel.bump(at + layout["total_objects"].offset, slabs * self.cache.objects_per_slab)


def link_free(cache: SlabCache, slab: Rows, chain: NDArray[np.uint64]) -> None:
    """Write the freelist into free slots of a slab as a hardened kernel does."""
    random = cache.freelist_random
    assert random is not None
    where = chain + np.uint64(cache.freelist_offset)
    stored = np.append(chain[1:], np.uint64(0)) ^ np.uint64(random) ^ where.byteswap()
    inside = (where & np.uint64(len(slab) - 1)).astype(np.int64)
    slab[inside[:, None] + np.arange(8)] = stored.astype("<u8").view(np.uint8).reshape(-1, 8)

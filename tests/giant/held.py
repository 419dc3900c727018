"""Slabs of objects that are all held: by a tree of objects full of pointers, as a page cache is."""

from __future__ import annotations

import numpy as np

from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.slab.caches import SlabCache

from .image import PAGE
from .kernel import Kernel
from .objects import Objects, Words
from .pages import PAGES, Rows, Workspace

_INNER = "kmalloc-512"


class HeldSlabs:
    """Whole sections of slabs that are alike: every other object points at the same one."""

    def __init__(self, kernel: Kernel, work: Workspace, leaves: str) -> None:
        """Of the cache that `leaves` names."""
        self.kernel, self.work = kernel, work
        self.cache = self._cache(leaves)
        assert self.cache.order == 0, leaves
        self._inner = Objects(kernel, work, self._cache(_INNER))
        self.row: Rows = Objects(kernel, work, self.cache).template[0]

    def _cache(self, name: str) -> SlabCache:
        cache = self.kernel.view.caches.find(name)
        assert cache is not None
        return cache

    @property
    def _size(self) -> int:
        return self.cache.slot_size

    def content(self, target: int) -> Rows:
        """uint8[PAGES, 4096]: of a section."""
        page = np.zeros(PAGE // 8, np.uint64)
        slots = page[: self.cache.objects_per_slab * self._size // 8].reshape(-1, self._size // 8)
        slots[::2, 1] = target
        return np.tile(page.view(np.uint8).reshape(1, PAGE), (PAGES, 1))

    def hold(self, sections: list[tuple[int, int]]) -> int:
        """Hold all objects of sections (first page frame, page frames); returns how many pages of
        slabs that took."""
        inside = np.arange(self.cache.objects_per_slab, dtype=np.uint64) * np.uint64(self._size)
        found = []
        for first, count in sections:
            begin = np.uint64(self.work.address(first * PAGE))
            pages = begin + np.arange(count, dtype=np.uint64) * np.uint64(PAGE)
            found.append((pages[:, None] + inside).reshape(-1))
        level: Words = np.concatenate(found)
        while len(level) > PAGE // 8:
            rows = np.zeros((-(-len(level) // 64), 64), np.uint64)
            rows.reshape(-1)[: len(level)] = level
            level = self._inner.add(rows.view(np.uint8))
        root = self.work.take(1, self.work.templates.some(FrameUse.RESERVED))
        self.kernel.image.write(root, level)
        self._inner.count()
        return self._inner.slabs << self._inner.cache.order

    def count(self, node: int, slabs: int) -> None:
        """Let the node's counters know of slabs that were added."""
        layout, at = self.kernel.layout("struct kmem_cache_node"), self.cache.nodes[node]
        self.kernel.bump(at + layout["nr_slabs"].offset, slabs)
        objects = slabs * self.cache.objects_per_slab
        self.kernel.bump(at + layout["total_objects"].offset, objects)

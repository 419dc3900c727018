"""Slabs of a generated machine that are full of objects of one cache, each as it is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Layout
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.slab.caches import SlabCache

from .image import PAGE
from .kernel import Kernel
from .pages import Rows, Workspace

Words = NDArray[np.uint64]
AT_ONCE = 1 << 10
"""Slabs that are written in one go."""


class Objects:
    """Slabs full of objects of one cache."""

    def __init__(
        self, kernel: Kernel, work: Workspace, cache: SlabCache, like: SlabCache | None = None
    ) -> None:
        """`like` is a cache that has a slab to copy, where this one has none."""
        self.kernel, self.work, self.cache = kernel, work, cache
        view = kernel.view
        row = view.index.rows_of(view.caches.index(like or cache))[0]
        pfn = int(view.index.page[row] - np.uint64(view.space.direct.start)) // PAGE
        pages = np.arange(pfn, pfn + (1 << cache.order), dtype=np.uint64)
        self.template = view.memory.rows(pages)[0].copy()
        slab = kernel.layout("struct slab")
        free, counters = slab["freelist"].offset, slab["inuse"].offset
        self.template[0, free : free + 8] = 0
        count = cache.objects_per_slab
        word = np.array([count | count << 16], "<u4")
        self.template[0, counters : counters + 4] = word.view(np.uint8)
        owners = kernel.layout("struct page").first_of("memcg_data")
        if owners is not None:
            self.template[0, owners.offset : owners.offset + 8] = 0
        self.slabs = 0

    def add(self, content: Rows) -> Words:
        """Objects with this content, uint8[n, bytes]: where they are now."""
        at = self.take(len(content))
        self.fill(at, content)
        return at

    def take(
        self, count: int, cache_of: Words | None = None, vectors: Words | None = None
    ) -> Words:
        """Room for objects: where each is. `cache_of` says which cache each slab is of, where it
        is not this one, `vectors` what its objects are charged to."""
        cache, work = self.cache, self.work
        each, pages = cache.objects_per_slab, 1 << cache.order
        slabs = -(-count // each)
        # What is skipped is no slab.
        at = work.take(slabs * pages, work.templates.some(FrameUse.RESERVED), align=pages)
        rows = np.repeat(self.template[None], slabs, axis=0)
        first = np.uint64(work.map_address(at)) + np.arange(slabs, dtype=np.uint64) * np.uint64(
            pages * work.templates.page.size
        )
        link = self.kernel.layout("struct page")["compound_head"].offset
        if pages > 1:
            heads = np.repeat((first | np.uint64(1))[:, None], pages - 1, axis=1)
            rows[:, 1:, link : link + 8] = heads.view(np.uint8).reshape(slabs, pages - 1, 8)
        if cache_of is not None:
            where = self.kernel.layout("struct slab")["slab_cache"].offset
            rows[:, 0, where : where + 8] = cache_of[:, None].view(np.uint8)
        if vectors is not None:
            where = self.kernel.layout("struct page")["memcg_data"].offset
            rows[:, 0, where : where + 8] = vectors[:, None].view(np.uint8)
        begin = work.row_of(at)
        work.rows[begin : begin + slabs * pages] = rows.reshape(slabs * pages, -1)
        self.slabs += slabs
        number = np.arange(count)
        offset = number // each * (pages * PAGE) + number % each * cache.slot_size
        return np.uint64(work.address(at)) + offset.astype(np.uint64)

    def fill(self, at: Words, content: Rows) -> None:
        """What objects hold, the first of which is a slab's first: uint8[n, bytes]."""
        cache = self.cache
        each, size = cache.objects_per_slab, PAGE << cache.order
        begin = self.kernel.physical(int(at[0]))
        for some in range(0, -(-len(content) // each), AT_ONCE):
            part = content[some * each : (some + AT_ONCE) * each]
            whole = -(-len(part) // each)
            data = np.zeros((whole, size), np.uint8)
            slots = np.zeros((whole * each, cache.slot_size), np.uint8)
            slots[: len(part), : part.shape[1]] = part
            data[:, : each * cache.slot_size] = slots.reshape(whole, -1)
            self.kernel.image.write(begin + some * size, data)

    def count(self) -> None:
        """Let the counters of the first node know."""
        layout, at = self.kernel.layout("struct kmem_cache_node"), self.cache.nodes[0]
        self.kernel.bump(at + layout["nr_slabs"].offset, self.slabs)
        objects = self.slabs * self.cache.objects_per_slab
        self.kernel.bump(at + layout["total_objects"].offset, objects)


def put(rows: Rows, layout: Layout, name: str, values: Words) -> None:
    """Set a member of each of n structures."""
    member = layout[name]
    size = min(member.size or 8, 8)
    data = np.ascontiguousarray(values.astype(np.uint64))[:, None].view(np.uint8)
    rows[:, member.offset : member.offset + size] = data[:, :size]

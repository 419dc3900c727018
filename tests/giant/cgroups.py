"""Very many memory cgroups: what each keeps, what is charged to it, and those that are removed.

Each is like the root's, which every machine has: a mem_cgroup with its part of the node, the part's
table of shrinkers, statistics, the obj_cgroup that objects are charged to, and one such object, in
whose slab's vector its obj_cgroup is. They are found as in a real kernel, from one child of the
root's to the next; a removed one stays there until nothing is charged to it. Some are lost.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crashext.hosts.base import Layout
from crashext.kernel.pages.frames import FrameUse

from .kernel import Kernel
from .objects import Objects, Words, put
from .pages import Rows, Workspace

_CHARGED = "kmalloc-cg-64"
_BY_OBJECT = 1  # MEMCG_DATA_OBJCGS
_DYING = 1 << 4  # CSS_DYING


class Cgroups:
    """Adds them to a kernel."""

    def __init__(self, kernel: Kernel, work: Workspace, of: Callable[[str], Objects]) -> None:
        """`of` gives the slabs of the cache with that name."""
        self.kernel, self.work, self._of = kernel, work, of
        root = kernel.read(kernel.symbol("root_mem_cgroup"))
        self.root, self.group = root, kernel.layout("struct mem_cgroup")
        self.css = kernel.layout("struct cgroup_subsys_state")

    def add(self, count: int, dying: int, lost: int) -> None:
        """So many, the first of which are `dying`, and then `lost` ones."""
        every = count + lost
        self._count(count - dying, dying)
        objcg = self.kernel.layout("struct obj_cgroup")
        node_at = self.kernel.read(self.root + self.group["nodeinfo"].offset)
        groups = self._of("kmalloc-4k").take(every)
        parts = self._of("kmalloc-4k").take(every)
        charges = np.zeros((every, objcg.size), np.uint8)
        number = np.arange(every)
        gone = (number < dying) | (number >= count)  # what was charged to it is charged to the root
        put(charges, objcg, "memcg", np.where(gone, np.uint64(self.root), groups))
        payers = self._of("kmalloc-64").add(charges)
        rows = self._copies(self.root, self.group.size + 8, groups)
        self._links(rows, groups[:count])
        put(rows, self.group, "objcg", np.where(gone, np.uint64(0), payers))
        put(rows, self.group, "nodeinfo", parts)
        size = self.kernel.layout("struct memcg_vmstats").size
        stats = self._of("kmalloc-2k").add(np.ones((every, size), np.uint8))
        put(rows, self.group, "vmstats", stats)
        flags = self.css["flags"].offset
        rows[:dying, flags] |= np.uint8(_DYING)
        self._of("kmalloc-4k").fill(groups, rows)
        node = self.kernel.layout("struct mem_cgroup_per_node")
        rows = self._copies(node_at, node.size, parts)
        put(rows, node, "memcg", groups)
        tables = self._of("kmalloc-512").add(np.ones((every, 300), np.uint8))
        put(rows, node, "shrinker_info", tables)
        self._of("kmalloc-4k").fill(parts, rows)
        self._charge(payers[:count])

    def _copies(self, of: int, size: int, to: Words) -> Rows:
        """Objects like one: what points into it points into each, other pointers are left out."""
        kernel = self.kernel
        row = np.frombuffer(kernel.image.read(kernel.physical(of), size), "<u8").copy()
        own = (row >= np.uint64(of)) & (row < np.uint64(of + size))
        space = kernel.space
        other = space.direct.holds(row) | space.vmemmap.holds(row) | space.vmalloc.holds(row)
        row[other & ~own] = 0
        rows = np.repeat(row[None], len(to), axis=0)
        rows[:, own] += to[:, None] - np.uint64(of)
        return rows.view(np.uint8)

    def _links(self, rows: Rows, groups: Words) -> None:
        """Make those that are not lost the root's children."""
        css, offset = self.css, self.group["css"].offset
        put(rows, css, "parent", np.full(len(rows), self.root + offset, np.uint64))
        link, head = css["sibling"].offset, self.root + offset + css["children"].offset
        chain = np.concatenate([[head], groups + np.uint64(link), [head]]).astype(np.uint64)
        both = np.stack([chain[2:], chain[:-2]], axis=1)
        rows[: len(groups), link : link + 16] = both.view(np.uint8)
        self.kernel.write(head, int(chain[1]))
        self.kernel.write(head + 8, int(chain[-2]))

    def _charge(self, payers: Words) -> None:
        """An object for each, all of them in a chain that a page of the kernel's begins."""
        cache = self._of(_CHARGED).cache
        each = cache.objects_per_slab
        slabs = -(-len(payers) // each)
        every = np.zeros(slabs * each, np.uint64)
        every[: len(payers)] = payers
        vectors = self._of(f"kmalloc-{8 * each}").add(every.reshape(slabs, each).view(np.uint8))
        charged = self._of(_CHARGED).take(slabs * each, vectors=vectors | np.uint64(_BY_OBJECT))
        links = np.append(charged[1:], np.uint64(0)).reshape(-1, 1)
        self._of(_CHARGED).fill(charged, links.view(np.uint8))
        root = self.work.take(1, self.work.templates.some(FrameUse.RESERVED))
        self.kernel.image.write(root, charged[:1])

    def _count(self, alive: int, dying: int) -> None:
        """Let the hierarchy's root know."""
        kernel = self.kernel

        def member(name: str, of: str) -> tuple[Layout, int]:
            layout = kernel.layout(f"struct {of}")
            return layout, layout[name].offset

        subsystem = kernel.symbol("memory_cgrp_subsys") + member("root", "cgroup_subsys")[1]
        top = kernel.read(subsystem) + member("cgrp", "cgroup_root")[1]
        for name, number in (("nr_descendants", alive), ("nr_dying_descendants", dying)):
            kernel.write(top + member(name, "cgroup")[1], number, 4)

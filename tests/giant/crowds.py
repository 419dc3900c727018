"""Very many of what a small machine has few of: vmalloc areas, tasks, caches.

All are copies of real ones, in slabs of their own caches, on the lists and trees that they belong
on. Their memory is in the workspace; that of areas and stacks is pages that are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Layout
from crashext.kernel.lists import entries
from crashext.kernel.pages.areas import VM_ALLOC, read_areas
from crashext.kernel.slab.caches import SlabCache

from .cgroups import Cgroups
from .image import PAGE
from .kernel import Kernel
from .objects import AT_ONCE, Objects, Words, put
from .pages import Workspace
from .shape import STACK_PAGES, Crowd

_ALIGN = 64 << 10


class Crowds:
    """Adds them to a kernel; `slab_pages` is what that took."""

    def __init__(self, kernel: Kernel, work: Workspace) -> None:
        self.kernel, self.work = kernel, work
        self._objects: dict[str, Objects] = {}
        self.slab_pages = 0

    def add(self, crowd: Crowd, pages: int) -> None:
        """`pages`: the page frame from which on the areas', then the stacks' memory is."""
        if crowd.areas or crowd.tasks:
            starts = self._areas(crowd, pages)
            self._tasks(starts[crowd.areas :])
        self._caches(crowd.caches)
        if crowd.cgroups:
            groups = Cgroups(self.kernel, self.work, self._of)
            groups.add(crowd.cgroups, crowd.cgroups // 2, crowd.cgroups_lost)
        for objects in self._objects.values():
            objects.count()
            self.slab_pages += objects.slabs << objects.cache.order

    def _of(self, name: str) -> Objects:
        if name not in self._objects:
            cache = self.kernel.view.caches.find(name)
            assert cache is not None, name
            self._objects[name] = Objects(self.kernel, self.work, cache)
        return self._objects[name]

    def _areas(self, crowd: Crowd, first: int) -> Words:
        """Areas of one page, then those of stacks: where each begins."""
        kernel = self.kernel
        area, about = kernel.layout("struct vmap_area"), kernel.layout("struct vm_struct")
        known = read_areas(kernel.host, kernel.view.memory)
        task = kernel.layout("struct task_struct")
        example = kernel.read(_sleeper(kernel) + task["stack"].offset)
        stack = int(np.searchsorted(known.start, np.uint64(example)))
        count = np.repeat([1, STACK_PAGES], [crowd.areas, crowd.tasks]).astype(np.uint64)
        frame = np.uint64(first) + np.cumsum(count) - count
        gap = int(np.argmax(known.start[1:] - known.end[:-1]))
        start = (int(known.end[gap]) // _ALIGN + 16) * _ALIGN
        starts = np.uint64(start) + np.arange(len(count), dtype=np.uint64) * np.uint64(_ALIGN)
        assert int(starts[-1]) + _ALIGN < int(known.start[gap + 1])
        vmemmap, size = kernel.space.vmemmap.start, self.work.templates.page.size
        arrays = np.zeros((len(count), STACK_PAGES), np.uint64)
        for i in range(STACK_PAGES):
            some = count > i
            arrays[some, i] = np.uint64(vmemmap) + (frame[some] + np.uint64(i)) * np.uint64(size)
        where = self._of("kmalloc-32").add(arrays.view(np.uint8))
        mine = np.uint64(kernel.symbol("vmalloc"))
        caller = np.where(count == 1, mine, known.caller[stack])
        structures = np.zeros((len(count), about.size), np.uint8)
        for name, values in (
            ("addr", starts),
            ("size", (count + np.uint64(1)) * np.uint64(PAGE)),
            ("flags", np.where(count == 1, np.uint64(VM_ALLOC), known.flags[stack])),
            ("pages", where),
            ("nr_pages", count),
            ("caller", caller),
        ):
            put(structures, about, name, values)
        vms = self._of("kmalloc-64").add(structures)
        self._tree(known.record[gap : gap + 2], area, starts, count, vms)
        self.vms = vms
        return starts

    def _tree(self, beside: Words, area: Layout, starts: Words, count: Words, vms: Words) -> None:
        """Hang a balanced tree of new vmap_areas between two neighbours."""
        kernel, node, link = self.kernel, area["rb_node"].offset, area["list"].offset
        objects = self._of("vmap_area")
        rows = np.zeros((len(starts), area.size), np.uint8)
        at = objects.take(len(starts))
        left, right, parent, top = _balanced(len(starts))
        nodes = np.append(at + np.uint64(node), np.uint64(0))  # the last is for -1
        before, after = beside.tolist()
        # Of two neighbours one has no child on the side of the other.
        under, side = (before, 8) if not kernel.read(before + node + 8) else (after, 16)
        assert not kernel.read(under + node + side)
        put(rows, area, "va_start", starts)
        put(rows, area, "va_end", starts + (count + np.uint64(1)) * np.uint64(PAGE))
        put(rows, area, "vm", vms)
        above = np.where(parent < 0, np.uint64(under + node), nodes[parent])
        chain = np.concatenate([[before + link], at + np.uint64(link), [after + link]])
        # rb_node: parent, right, left
        words = [above | np.uint64(1), nodes[right], nodes[left], chain[2:], chain[:-2]]
        places = (node, node + 8, node + 16, link, link + 8)
        for place, values in zip(places, words, strict=True):
            rows[:, place : place + 8] = values.astype(np.uint64)[:, None].view(np.uint8)
        objects.fill(at, rows)
        kernel.write(under + node + side, int(nodes[top]))
        kernel.write(before + link, int(at[0]) + link)
        kernel.write(after + link + 8, int(at[-1]) + link)

    def _tasks(self, stacks: Words) -> None:
        """Threads like one that sleeps, at the end of the task list."""
        if not len(stacks):
            return
        kernel, task = self.kernel, self.kernel.layout("struct task_struct")
        objects = self._of("task_struct")
        example = _sleeper(kernel)
        row = kernel.image.read(kernel.physical(example), objects.cache.object_size)
        at = objects.take(len(stacks))
        old = kernel.read(example + task["stack"].offset)
        sp = task["thread"].offset + kernel.layout("struct thread_struct")["sp"].offset
        inside = kernel.read(example + sp) - old
        vms = self.vms[-len(stacks) :]
        numbers = (100_000 + np.arange(len(stacks))).astype(np.uint32)
        link, head = task["tasks"].offset, kernel.symbol("init_task")
        last = kernel.read(head + link + 8)
        chain = np.concatenate([[last], at + np.uint64(link), [head + link]]).astype(np.uint64)
        step = AT_ONCE * objects.cache.objects_per_slab
        for begin in range(0, len(stacks), step):
            some = slice(begin, begin + step)
            rows = np.repeat(np.frombuffer(row, np.uint8)[None], len(stacks[some]), axis=0)
            put(rows, task, "stack", stacks[some])
            put(rows, task, "stack_vm_area", vms[some])
            for place, values in (
                (sp, stacks[some] + np.uint64(inside)),
                (link, chain[2:][some]),
                (link + 8, chain[:-2][some]),
                (task["pid"].offset, numbers[some]),
                (task["tgid"].offset, numbers[some]),
            ):
                data = np.ascontiguousarray(values)[:, None].view(np.uint8)
                rows[:, place : place + data.shape[1]] = data
            objects.fill(at[some], rows)
        kernel.write(last, int(chain[1]))
        kernel.write(head + link + 8, int(chain[-2]))

    def _caches(self, count: int) -> None:
        """Caches like one that is idle, with a slab each."""
        if not count:
            return
        kernel, layout = self.kernel, self.kernel.layout("struct kmem_cache")
        objects, model = self._of("kmem_cache"), _idle(kernel)
        size = objects.cache.object_size
        row = kernel.image.read(kernel.physical(model.address), size)
        rows = np.repeat(np.frombuffer(row, np.uint8)[None], count, axis=0)
        at = objects.take(count)
        names = np.zeros((count, 32), np.uint8)
        for i in range(count):
            text = f"{model.name}({i}:job-{i})".encode()[:31]
            names[i, : len(text)] = np.frombuffer(text, np.uint8)
        each = model.objects_per_slab
        slabs = Objects(kernel, self.work, model, self._of("kmalloc-32").cache)
        inside = slabs.take(count * each, at).reshape(count, each)
        # Where its name is, a cache's first object is known, and each knows the next.
        named = np.concatenate([names, inside[:, :1].view(np.uint8)], axis=1)
        where = self._of("kmalloc-64").add(named)
        links = np.append(inside[:, 1:], np.zeros((count, 1), np.uint64), axis=1)
        slabs.fill(inside.reshape(-1), links.reshape(-1, 1).view(np.uint8))
        node = kernel.layout("struct kmem_cache_node")
        plain = kernel.image.read(kernel.physical(model.nodes[0]), node.size)
        own = np.repeat(np.frombuffer(plain, np.uint8)[None], count, axis=0)
        places = self._of("kmem_cache_node").take(count)
        heads = (places + np.uint64(node["partial"].offset))[:, None]
        start = node["partial"].offset
        own[:, start : start + 16] = np.repeat(heads, 2, axis=1).view(np.uint8)
        put(own, node, "nr_slabs", np.ones(count, np.uint64))
        put(own, node, "total_objects", np.full(count, each, np.uint64))
        put(own, node, "nr_partial", np.zeros(count, np.uint64))
        self._of("kmem_cache_node").fill(places, own)
        put(rows, layout, "name", where)
        start = layout["node"].offset
        rows[:, start : start + 8] = places[:, None].view(np.uint8)
        link, head = layout["list"].offset, kernel.symbol("slab_caches")
        last = kernel.read(head + 8)
        chain = np.concatenate([[last], at + np.uint64(link), [head]]).astype(np.uint64)
        for place, values in ((link, chain[2:]), (link + 8, chain[:-2])):
            rows[:, place : place + 8] = values[:, None].view(np.uint8)
        objects.fill(at, rows)
        kernel.write(last, int(chain[1]))
        kernel.write(head + 8, int(chain[-2]))
        self.slab_pages += slabs.slabs << model.order


def _balanced(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """left, right and parent of each node of a balanced tree in order (-1: none), and its top."""
    left, right, parent = (np.full(count, -1, np.int64) for _ in range(3))
    low, high, above = np.array([0]), np.array([count]), np.array([-1])
    while len(low):
        middle = (low + high) // 2
        parent[middle] = above
        under = above >= 0
        is_left = under & (middle < above)
        left[above[is_left]] = middle[is_left]
        is_right = under & (middle > above)
        right[above[is_right]] = middle[is_right]
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle, high])
        above = np.concatenate([middle, middle])
        some = low < high
        low, high, above = low[some], high[some], above[some]
    return left, right, parent, count // 2


def _sleeper(kernel: Kernel) -> int:
    """A kernel thread that sleeps."""
    task, head = kernel.layout("struct task_struct"), kernel.symbol("init_task")
    link = task["tasks"].offset
    found = [
        at
        for at in entries(kernel.host, head + link, link, 1 << 16)
        if not kernel.read(at + task["mm"].offset)
        and not kernel.read(at + task["on_cpu"].offset, 4)
    ]
    return found[-1]


def _idle(kernel: Kernel) -> SlabCache:
    """A cache without any slab."""
    view = kernel.view
    for cache in view.caches.all:
        reader = view.reader(cache)
        rows = view.index.rows_of(view.caches.index(cache))
        if not len(rows) and not reader.cpu_bases().any() and cache.order == 0:
            return cache
    raise AssertionError("every cache has slabs")
